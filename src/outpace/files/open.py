"""From a name or a path to a model that is ready to run.

The source is read once. Packed weights, configuration, tokenizer and chat template are kept in one file of
the cache folder, named after the source's identity. Every later start reads only that file, and all of it, so
that a damaged one is found and packed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outpace.core.errors import FormatError, OutpaceError
from outpace.core.notes import note
from outpace.files.chat import ChatTemplate
from outpace.files.config import ModelConfig
from outpace.files.packed import PackedFile, write_packed
from outpace.files.tokenizer import Tokenizer
from outpace.files.whole import remove_abandoned
from outpace.progress import Progress

CACHE_FOLDERS = ("models", "packed")
_FOLDER_PATTERNS = ("*.safetensors", "*.json", "*.jinja")  # what a packed model is made of


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run. `source` is the file or folder it was packed from."""

    config: ModelConfig
    weights: PackedFile
    tokenizer: Tokenizer
    chat: ChatTemplate | None
    source: Path

    def close(self) -> None:
        """Closes the packed file."""
        self.weights.close()


def open_model(
    source: str | Path, *, quantize: str | None = None, progress: Progress | None = None
) -> LoadedModel:
    """Opens a .gguf file, a Hugging Face folder or a name of the catalog.

    `quantize` ("q8" or "q4") packs float matrices in 8 or 4 bit; quantised ones stay as they are.
    `progress(done, total, label)` follows a download and the packing of a source that is new. OutpaceError
    for everything that is wrong with the source, the options or the cache folder.
    """
    for name in CACHE_FOLDERS:
        remove_abandoned(cache_folder() / name)
    path = _locate(source, progress)
    cached = packed_path(path, quantize=quantize)
    try:
        return _open_packed(cached, path, quantize)
    except FormatError as error:
        if os.path.lexists(cached):  # else this is the first start
            note(f"packing {path} anew: {error}")
    from outpace.files import catalog

    if catalog.renew(path, progress=progress):
        cached = packed_path(path, quantize=quantize)
    try:
        _pack(path, cached, quantize, progress)
    except FormatError as error:
        if str(path) in str(error):
            raise
        raise FormatError(f"{path}: {error}") from error
    return _open_packed(cached, path, quantize)


def packed_path(source: Path, *, quantize: str | None = None) -> Path:
    """Where the packed form of a .gguf file or folder is kept: the source's identity is in the name.

    It stays the same from version to version: a file that an older one has packed is replaced.
    An OutpaceError if the source cannot be read.
    """
    resolved = Path(os.path.realpath(source))  # as `resolve`, but for links in a circle
    files = [resolved]
    if resolved.is_dir():
        files = sorted(f for pattern in _FOLDER_PATTERNS for f in resolved.glob(pattern))
    identity: list[Any] = [1, quantize, str(resolved)]
    try:
        for file in files:
            status = file.stat()
            identity.append((file.name, status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise OutpaceError(f"cannot read {source}: {error.strerror or error}") from error
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return cache_folder() / "packed" / f"{key[:32]}.outpace"


def cache_folder() -> Path:
    """$OUTPACE_CACHE, else `outpace` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache).

    Raises OutpaceError where there is neither that nor a home folder.
    """
    own = os.environ.get("OUTPACE_CACHE")
    if own:
        return Path(os.path.expanduser(own))
    base = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if base.startswith("~"):
        raise OutpaceError("this user has no home folder for the cache; set OUTPACE_CACHE to a folder")
    return Path(base) / "outpace"


def _locate(source: str | Path, progress: Progress | None) -> Path:
    path = Path(os.path.expanduser(source))
    if not os.path.exists(path):
        if isinstance(source, Path) or path.suffix == ".gguf" or source.startswith((".", "/", "~")):
            raise OutpaceError(f"there is no file or folder {source}")
        from outpace.files import catalog

        path = catalog.resolve(source, progress=progress)
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) != 1:
            raise FormatError(
                f"{path} has no config.json and {len(files)} .gguf files; expected one of either"
            )
        return files[0]
    return path


def _origin(source: Path, quantize: str | None) -> dict[str, Any]:
    return {"path": os.path.realpath(source), "quantize": quantize}


def _open_packed(cached: Path, source: Path, quantize: str | None) -> LoadedModel:
    weights = PackedFile(cached)
    if weights.source != _origin(source, quantize):  # a copy or a backup put in its place
        raise FormatError(f"{cached} was packed from another source")
    text, chat = weights.section("tokenizer"), weights.section("chat")
    if text is None:
        raise FormatError(f"{cached} holds no tokenizer")
    try:
        template = None if chat is None else ChatTemplate(**json.loads(chat))
        tokenizer = Tokenizer.from_json(text.decode())
    except (TypeError, ValueError, RecursionError):  # written for another version's fields
        raise FormatError(f"{cached} holds no readable tokenizer and chat template") from None
    return LoadedModel(weights.config, weights, tokenizer, template, source)


def _pack(path: Path, cached: Path, quantize: str | None, progress: Progress | None) -> None:
    # These are only needed once per source, and a start should not wait for them.
    from outpace.files.config_gguf import config_from_gguf
    from outpace.files.config_hf import config_from_hf
    from outpace.files.gguf import GGUFFile
    from outpace.files.json_files import json_file
    from outpace.files.safetensors import FolderWeights
    from outpace.files.weights import plan_gguf, plan_hf

    source: GGUFFile | FolderWeights
    if path.is_dir():
        config = config_from_hf(json_file(path / "config.json"))
        source = FolderWeights(path)
        tensors = plan_hf(source, config, quantize=quantize)
        tokenizer, chat = Tokenizer.from_folder(path), ChatTemplate.from_folder(path)
    else:
        source = GGUFFile(path)
        config = config_from_gguf(source.metadata, source)
        tensors = plan_gguf(source, config, quantize=quantize)
        tokenizer, chat = Tokenizer.from_gguf(source.metadata), ChatTemplate.from_gguf(source.metadata)
    if (beyond := tokenizer.first_beyond(config.vocab_size)) is not None:
        raise FormatError(
            f"the tokenizer has {beyond!r:.60} behind the {config.vocab_size} rows of the model's matrix"
        )
    sections = {"tokenizer": tokenizer.to_json().encode()}
    if chat is not None:
        sections["chat"] = json.dumps(asdict(chat)).encode()
    write_packed(
        cached,
        config=config,
        tensors=tensors,
        sections=sections,
        source=_origin(path, quantize),
        progress=progress,
    )
