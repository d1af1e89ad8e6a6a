"""Heads that come with the package: a folder for each method, in it one for each model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from outpace.core.contracts import Tapped, Target
from outpace.core.errors import OutpaceError
from outpace.files.json_files import json_file
from outpace.heads.folder import CONFIG

PACKAGED = Path(__file__).parent / "packaged"
IMPORTED = ("dflash",)  # methods that nothing here trains


def heads_for(target: Target, method: str, beside: Callable[[str], Path] | None) -> Path:
    """The folder of a model's own heads of a method, or else of those in the package; or an OutpaceError.

    beside  name -> path of a file that belongs to the target's weights, or None.
    """
    return own_heads(beside, method) or packaged_heads(target, method)


def own_heads(beside: Callable[[str], Path] | None, method: str) -> Path | None:
    """The folder of the heads of a method that lie beside a model's packed weights, if there are any."""
    folder = beside(method) if beside is not None else None
    return folder if folder is not None and (folder / CONFIG).exists() else None


def packaged_heads(target: Target, method: str) -> Path:
    """The folder of the heads of a method for this very model; OutpaceError if there are none."""
    found = find_packaged_heads(target, method)
    if found is None:
        names = ", ".join(path.parent.name for path in _configs(method)) or "none"
        made = "heads import" if method in IMPORTED else f"train {method}"
        raise OutpaceError(
            f"there are no heads for this model in the package (it has: {names}); accepted is "
            f"{method}:path=FOLDER with heads that `outpace {made}` has made"
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
