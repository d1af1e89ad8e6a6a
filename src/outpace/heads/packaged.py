"""Heads that come with the package: a folder for each method, in it one for each model."""

from __future__ import annotations

from pathlib import Path

from outpace.core.contracts import Tapped, Target
from outpace.core.errors import OutpaceError
from outpace.files.json_files import json_file

PACKAGED = Path(__file__).parent / "packaged"


def packaged_heads(target: Target, method: str) -> Path:
    """The folder of the heads of a method for this very model; OutpaceError if there are none."""
    found = find_packaged_heads(target, method)
    if found is None:
        names = ", ".join(path.parent.name for path in _configs(method)) or "none"
        raise OutpaceError(
            f"there are no heads for this model in the package (it has: {names}); accepted is "
            f"{method}:path=FOLDER with heads that `outpace train {method}` has made"
        )
    return found


def find_packaged_heads(target: Target, method: str) -> Path | None:
    """The folder of the heads of a method for this very model, if there is one."""
    if not isinstance(target, Tapped):
        return None
    for path in _configs(method):
        config = json_file(path)
        # Weights are read for their fingerprint only where the width fits.
        if config.get("hidden_size") == target.hidden_size and config.get("target") == target.fingerprint():
            return path.parent
    return None


def _configs(method: str) -> list[Path]:
    return sorted(PACKAGED.glob(f"{method}/*/config.json"))
