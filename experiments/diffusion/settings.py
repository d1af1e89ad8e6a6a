"""What is measured: chains, drafts and windows by name; and which of them are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from experiments.kit.results import Record
from outpace.diffusion import Independent, names
from outpace.diffusion.drafts import Draft
from outpace.diffusion.process import Model
from outpace.diffusion.windows import Window

DRAFTS = (
    *(
        f"{draft}{held}"
        for draft in ("frozen", "stale", "carried")
        for held in ("", ":held=output", ":held=increment")
    ),
    "picard",
    "picard:sweeps=2",
)
"""By the library's names: what is held is the prediction if nothing is said, Picard begins with `stale`."""
INDEPENDENT = "independent:"
"""Begins the name of a draft by a cheaper model, whose own name follows."""
ADAPTIVE, PRICED = "adaptive", "priced"
"""Windows that adapt: to a small price for another state, and to the price as measured on this machine."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What is sampled from: a process by name, its number of steps, its churn."""

    process: str
    steps: int
    churn: float = 1.0

    @property
    def record(self) -> Record:
        """As records have it."""
        return {"process": self.process, "steps": self.steps, "churn": self.churn}


@dataclass(frozen=True, slots=True)
class Setting:
    """A chain, and how its steps are drafted."""

    chain: Chain
    draft: str
    window: str

    @property
    def record(self) -> Record:
        """As records have it."""
        return {**self.chain.record, "draft": self.draft, "window": self.window}


@dataclass(frozen=True, slots=True)
class Sweep:
    """All drafts at a base; the leading ones also along each axis: windows, steps, churns, processes."""

    base: Chain
    drafts: tuple[str, ...]
    leading: tuple[str, ...]
    window: str = "8"
    windows: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    churns: tuple[float, ...] = ()
    processes: tuple[str, ...] = ()

    def settings(self) -> list[Setting]:
        """Each once, those of a chain one after another."""
        chains = [self.base]
        chains += [replace(self.base, steps=steps) for steps in self.steps]
        chains += [replace(self.base, churn=churn) for churn in self.churns]
        chains += [replace(self.base, process=process) for process in self.processes]
        found = [Setting(self.base, draft, self.window) for draft in self.drafts]
        found += [Setting(self.base, draft, window) for window in self.windows for draft in self.leading]
        found += [Setting(chain, draft, self.window) for chain in chains for draft in self.leading]
        return list(dict.fromkeys(found))


def make_draft(name: str, cheaper: Callable[[str], Model]) -> Draft | None:
    """By its name. cheaper: the model of a name, for drafts that are independent."""
    if name.startswith(INDEPENDENT):
        return Independent(cheaper(name.removeprefix(INDEPENDENT)))
    return names.make_draft(name)


def make_window(name: str, price: float) -> Window:
    """By its name. price: of another state, where it was measured."""
    return names.make_window(f"{ADAPTIVE}:price={price}" if name == PRICED else name)
