"""Checkpoints: whole or not at all, and never taken up by another training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.train.checkpoint import RUN, STATE, Checkpoint  # noqa: E402
from tests import full_disk  # noqa: E402
from tests.special_files import SPECIAL  # noqa: E402

SETTINGS = {"lr": 0.1, "steps": 7, "data": "sha256:a", "width": None}


WRONG_LOSSES: list[Any] = [None, 3, {}, "ab", [1], [[1]], [[1, None]]]
WRONG_SECONDS: list[Any] = [None, "1", [], True, float("nan"), 10**400]
FIELDS = {"settings": SETTINGS, "losses": [[1, 0.5]], "seconds": 1.5}


def saved(folder: Path) -> Checkpoint:
    checkpoint = Checkpoint(folder, SETTINGS)
    checkpoint.save({"step": 3, "weights": torch.arange(4.0)}, steps_done=3, seconds=1.5)
    return checkpoint


def test_what_was_saved_is_taken_up(tmp_path: Path) -> None:
    fresh = Checkpoint(tmp_path / "a" / "b", SETTINGS)
    assert fresh.load() is None and fresh.run["steps_done"] == 0
    with pytest.raises(OutpaceError, match=r"holds a run with lr=0\.1"):
        Checkpoint(tmp_path / "a" / "b", SETTINGS | {"lr": 1.0})  # though nothing was saved yet
    saved(tmp_path / "a" / "b").note(extra=[1, 2])
    again = Checkpoint(tmp_path / "a" / "b", SETTINGS)
    state = again.load()
    assert state is not None and state["step"] == 3 and state["weights"].tolist() == [0, 1, 2, 3]
    run = json.loads((tmp_path / "a" / "b" / RUN).read_text())
    assert again.run == run and run["settings"] == SETTINGS
    assert (run["steps_done"], run["seconds"], run["extra"]) == (3, 1.5, [1, 2])
    assert run["versions"]["torch"] == torch.__version__ and run["versions"].keys() >= {"outpace", "python"}
    again.done()
    again.done()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [RUN]


def test_other_settings_are_refused_by_name_and_value(tmp_path: Path) -> None:
    saved(tmp_path)
    for changed, listed in (
        ({"lr": 0.2}, "holds a run with lr=0.1 (now 0.2); accepted are the same"),
        ({"steps": 8, "data": "sha256:b"}, "with data='sha256:a' (now 'sha256:b'), steps=7 (now 8);"),
        ({"more": 1}, "with more=None (now 1);"),
        ({"width": 4}, "with width=None (now 4);"),
    ):
        with pytest.raises(OutpaceError, match=re.escape(listed)):
            Checkpoint(tmp_path, SETTINGS | changed)
    with pytest.raises(OutpaceError, match="with steps=7"):
        Checkpoint(tmp_path, {name: value for name, value in SETTINGS.items() if name != "steps"})
    assert Checkpoint(tmp_path, dict(reversed(SETTINGS.items()))).load() is not None


def test_settings_are_compared_as_they_are_written(tmp_path: Path) -> None:
    settings = {"betas": (0.9, 0.98)}
    Checkpoint(tmp_path, settings).note()
    assert Checkpoint(tmp_path, settings).run["settings"] == {"betas": [0.9, 0.98]}


@pytest.mark.parametrize("size", [0, 10, -20])
def test_an_unreadable_state_is_named(tmp_path: Path, size: int) -> None:
    saved(tmp_path)
    path = tmp_path / STATE
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(OutpaceError, match=r"checkpoint\.pt cannot be read .*remove it to begin anew"):
        Checkpoint(tmp_path, SETTINGS).load()


class Danger:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("the state was executed",))


def test_a_state_is_data_and_not_code(tmp_path: Path) -> None:
    saved(tmp_path)
    torch.save({"step": Danger()}, tmp_path / STATE)
    with pytest.raises(OutpaceError, match="cannot be read"):
        Checkpoint(tmp_path, SETTINGS).load()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"settings": 3}', '{"settings": null}', "\ufeff", "7", "[" * 100_000),
        *(json.dumps(FIELDS | {"losses": losses}) for losses in WRONG_LOSSES),
        *(json.dumps(FIELDS | {"seconds": seconds}) for seconds in WRONG_SECONDS),
        json.dumps(FIELDS | {"losses": [[10**400, 0.5]]}),
        *(json.dumps(FIELDS | {"settings": [pair, ["seed", 0]]}) for pair in (["rate", 0.1], [1, 2], "ab")),
        *(json.dumps({k: v for k, v in FIELDS.items() if k != name}) for name in ("losses", "seconds")),
    ],
)
def test_an_unreadable_run_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / RUN).write_text(text)
    with pytest.raises(OutpaceError, match=r"run\.json cannot be read .*remove the folder to begin anew"):
        Checkpoint(tmp_path, SETTINGS)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", [RUN, STATE])
def test_what_is_no_file_is_named(tmp_path: Path, kind: str, name: str) -> None:
    saved(tmp_path)
    (tmp_path / name).unlink()
    SPECIAL[kind](tmp_path / name)
    with pytest.raises(OutpaceError, match=f"{name} cannot be read .*remove .* to begin anew"):
        Checkpoint(tmp_path, SETTINGS).load()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = saved(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    full_disk.fill(monkeypatch)
    with pytest.raises(OutpaceError, match=r"cannot write .*checkpoint\.pt: No space left .*same command"):
        checkpoint.save({"step": 5}, steps_done=5)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    state = Checkpoint(tmp_path, SETTINGS).load()
    assert state is not None and state["step"] == 3


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutpaceError, match=r"cannot write .*file"):
        Checkpoint(tmp_path / "file", SETTINGS)
