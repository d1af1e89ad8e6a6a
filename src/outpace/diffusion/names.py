"""Drafts and windows by name: `stale:held=output`, `picard:sweeps=2,draft=frozen`, `adaptive:most=12`."""

from __future__ import annotations

import operator

from outpace.core.errors import OutpaceError
from outpace.core.options import shown
from outpace.core.registry import Registry
from outpace.diffusion.checks import checked_part
from outpace.diffusion.drafts import (
    Carried,
    Draft,
    Frozen,
    Held,
    Increment,
    Output,
    Picard,
    Prediction,
    Stale,
)
from outpace.diffusion.windows import Adaptive, Fixed, Window

DRAFTS = Registry(
    "draft",
    {name: f"outpace.diffusion.names:{name}" for name in ("none", "frozen", "stale", "carried", "picard")},
    "outpace.diffusion.drafts",
)
WINDOWS = Registry(
    "window",
    {name: f"outpace.diffusion.names:{name}" for name in ("fixed", "adaptive")},
    "outpace.diffusion.windows",
)
HELD: dict[str, type[Held]] = {"prediction": Prediction, "output": Output, "increment": Increment}


def make_draft(draft: Draft | str | None) -> Draft | None:
    """The draft of a name, or the one that it is already; None for plain sampling."""
    if isinstance(draft, str):
        made: Draft | None = DRAFTS.create(draft)
        return made
    return None if draft is None else checked_part("draft", draft, Draft, "Stale(), their names and None")


def make_window(window: Window | int | str) -> Window:
    """The window of a number or name, or the one that it is already."""
    if isinstance(window, str) and window.strip().lstrip("-").isdigit():
        window = int(window)
    if isinstance(window, str) and window.partition(":")[0].strip() in WINDOWS.names():
        made: Window = WINDOWS.create(window)
        return made
    if isinstance(window, Window) and not isinstance(window, type):
        return window
    try:
        if isinstance(window, bool):
            raise TypeError
        length = operator.index(window)  # type: ignore[arg-type]  # numpy's whole numbers too
    except Exception:
        names = ", ".join(WINDOWS.names())
        raise OutpaceError(f"window is {shown(window)}, accepted are whole numbers >= 1, {names}") from None
    return Fixed(length)


def none() -> None:
    """Plain sampling."""


def frozen(*, held: str = "prediction") -> Frozen:
    """`Frozen`, holding a part by name."""
    return Frozen(_held(held))


def stale(*, held: str = "prediction") -> Stale:
    """`Stale`, holding a part by name."""
    return Stale(_held(held))


def carried(*, held: str = "prediction") -> Carried:
    """`Carried`, holding a part by name."""
    return Carried(_held(held))


def picard(*, draft: str = "stale", sweeps: int = 1, held: str = "prediction") -> Picard:
    """`Picard` on another draft by name, holding a part by name."""
    first = make_draft(draft)
    if first is None:
        raise OutpaceError("picard starts from a draft, accepted are others than none")
    return Picard(first, sweeps=sweeps, held=_held(held))


def fixed(*, length: int = 8) -> Fixed:
    """`Fixed`."""
    return Fixed(length)


def adaptive(*, most: int = 16, price: float = 0.05) -> Adaptive:
    """`Adaptive`."""
    return Adaptive(most, price=price)


def _held(name: str) -> Held:
    if name not in HELD:
        raise OutpaceError(f"held is {name!r}, accepted are {', '.join(HELD)}")
    return HELD[name]()
