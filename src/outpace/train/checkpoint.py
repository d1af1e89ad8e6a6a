"""The state of a training on disk: written whole or not at all, and only taken up by the same training.

A folder holds checkpoint.pt (the latest state) and run.json (what is being trained, with what, how far).
"""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from outpace.core.errors import OutpaceError
from outpace.files.json_files import json_file
from outpace.files.regular import open_regular
from outpace.files.whole import write_whole
from outpace.train.origin import unlike

STATE, RUN = "checkpoint.pt", "run.json"
KEPT = "; what was written last is still there, and the same command goes on from it"
_MOST = 1e300  # a whole number of 400 digits is no float, and cannot be counted on from
VERSIONS = ("outpace", "torch", "transformers", "numpy")


class Checkpoint:
    """The files of one training.

    settings  all that decides what comes out. From now on the folder is that of a run with these; one that
              holds a run with others is refused.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.settings = dict(settings)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutpaceError(f"cannot write {self.folder}: {error.strerror or error}") from error
        found = read_run(self.folder)
        if found is not None and (listed := unlike(found["settings"], json.loads(json.dumps(self.settings)))):
            raise OutpaceError(
                f"{self.folder} holds a run with {listed}; accepted are the same settings or a new folder"
            )
        self.run: dict[str, Any] = found or {
            "settings": self.settings,
            "versions": {name: version(name) for name in VERSIONS} | {"python": platform.python_version()},
            "machine": platform.machine(),
            "steps_done": 0,
            "seconds": 0.0,
            "losses": [],
        }
        if found is None:
            self.note()

    def load(self) -> dict[str, Any] | None:
        """The latest state, or None where there is none yet."""
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            with open_regular(path) as file:
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise OutpaceError(
                f"{path} cannot be read ({type(error).__name__}); remove it to begin anew"
            ) from None
        return state

    def save(self, state: Mapping[str, Any], **progress: Any) -> None:
        """Replace the state and bring run.json up to date."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_whole(self.folder / STATE, buffer.getbuffer(), after=KEPT)
        self.note(**progress)

    def note(self, **facts: Any) -> None:
        """Add facts to run.json."""
        self.run |= facts
        write_whole(self.folder / RUN, (json.dumps(self.run, indent=1) + "\n").encode(), after=KEPT)

    def done(self) -> None:
        """The state is of no use any more."""
        (self.folder / STATE).unlink(missing_ok=True)


def read_run(folder: Path) -> dict[str, Any] | None:
    """What a folder's run.json says, None without one; OutpaceError where nothing can go on from it."""
    path = folder / RUN
    if not os.path.lexists(path):
        return None
    try:
        run = json_file(path)
        _check_fields(run)
    except (ValueError, KeyError, TypeError) as error:
        raise OutpaceError(f"{path} cannot be read ({error}); remove the folder to begin anew") from None
    return run


def _check_fields(run: Mapping[str, Any]) -> None:
    """ValueError, TypeError or KeyError where a training could not count on from these."""
    if not isinstance(run["settings"], dict):  # `dict` also takes a list of pairs
        raise TypeError("settings are not named values")
    numbers = [run["seconds"], *(number for point in run["losses"] for number in point)]
    pairs = isinstance(run["losses"], list) and all(len(point) == 2 for point in run["losses"])
    if not pairs or not all(type(number) in (int, float) and abs(number) < _MOST for number in numbers):
        raise ValueError("seconds and losses are not what a training notes")
