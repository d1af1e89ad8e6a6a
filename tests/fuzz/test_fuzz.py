"""A short run of `make fuzz`: the same cases every time; and that the harness finds what there is to find."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outpace.core.errors import OutpaceError
from tests.fuzz.__main__ import Lines
from tests.fuzz.cases import files_of, run_case, sound
from tests.fuzz.gguf_file import GGUF
from tests.fuzz.of_models import of_eight_layers, tiny
from tests.fuzz.reader import Reader
from tests.fuzz.readers import READERS

NUM_CASES = 40
SLOW = {"diffusion": 0}  # number of cases; a sound pipeline alone takes seconds


@pytest.fixture(scope="module", autouse=True)
def the_model_goes() -> Iterator[None]:
    """Before the native module does."""
    yield
    tiny.cache_clear()
    of_eight_layers.cache_clear()


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_in_one_line_or_read(name: str) -> None:
    if not READERS[name].runs_here():
        pytest.skip(f"needs {', '.join(READERS[name].needs)}")
    for number in range(SLOW.get(name, NUM_CASES)):
        outcome = run_case(name, files_of(name, 0, number))
        assert not outcome.is_find, f"case {number}: {outcome.kind}: {outcome.detail}"


@pytest.mark.parametrize("name", [name for name in READERS if name not in SLOW])
def test_sound_files_are_read_to_the_end(name: str) -> None:
    if not READERS[name].runs_here():
        pytest.skip(f"needs {', '.join(READERS[name].needs)}")
    for files in sound(name):
        outcome = run_case(name, files)
        assert outcome.kind == "accepted", outcome.detail


def test_cases_follow_from_seed_and_number() -> None:
    assert files_of("gguf", 1, 77) == files_of("gguf", 1, 77) != files_of("gguf", 2, 77)
    cases = [files_of("folder", 0, number) for number in range(50)]
    assert sum(case not in sound("folder") for case in cases) > 40


def test_gguf_files_are_taken_apart_and_put_together() -> None:
    for files in sound("gguf"):
        assert GGUF.from_bytes(files["model.gguf"]).to_bytes() == files["model.gguf"]


class _Silent(OutpaceError):
    def __str__(self) -> str:
        return ""


def _fail(error: BaseException) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (_fail(OutpaceError("no")), "refused"),
        (lambda folder: None, "accepted"),
        (_fail(_Silent()), "message"),
        (_fail(KeyError("x")), "traceback"),
        (_fail(BaseException("of a library")), "traceback"),
        (lambda folder: bytearray(260_000_000), "memory"),
    ],
)
def test_the_harness_finds(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], kind: str
) -> None:
    monkeypatch.setitem(READERS, "made up", Reader(lambda: [{"a": b"x"}], read))
    assert run_case("made up", {"a": b"x"}).kind == kind


def test_lines_tell_silence_from_the_end() -> None:
    import subprocess

    code = "import time; print('a'); print('b', flush=True); time.sleep(600)"
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, bufsize=0)
    assert worker.stdout is not None
    with worker.stdout as out:
        lines = Lines(out.fileno())
        assert [lines.next(60.0), lines.next(60.0), lines.next(0.01)] == ["a", "b", None]
        worker.kill()
        worker.wait()
        assert lines.next(60.0) == ""
