"""What reports are made of: tables, and the figures in their cells."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from textwrap import TextWrapper

from experiments.kit.results import Results


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def runs_table(results: Results) -> str:
    """A line for each command that measured, with its hardware."""
    lines = [
        [
            run["date"], f"`{run['command']}`", run["gpu"] or f"{run['cpu']}, {run['num_cpus']} cores",
            str(run["threads"]), run["torch"], run["outpace"],
        ]
        for run in results.of("run")
    ]  # fmt: skip
    lines = [line for number, line in enumerate(lines) if line not in lines[:number]]
    return table(["date", "command", "hardware", "threads", "torch", "outpace"], lines)


def spread(ratios: Sequence[float]) -> str:
    """The median, with the quarters around it where there are enough."""
    if not ratios:
        return "1"
    if len(ratios) < 4:
        return f"{median(ratios):.2f}"
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def exactness(num: int, margins: Sequence[float], *, what: str, token: str) -> str:
    """How many of `num` outputs of the exact rule are greedy's, and how near a tie the others parted from it.

    margins  of each of the others, by how much the model prefers greedy's token.
    """
    text = f"{num - len(margins)} of {num} {what} with the exact rule are greedy's own"
    if not margins:
        return f"{text}."
    return (
        f"{text}; where another one parts from it, the model prefers greedy's {token} by a logit of "
        f"{max(margins):.1g} at most."
    )


def bullets(sentences: Sequence[str]) -> str:
    """A list, an item for each, in lines of at most 118 characters."""
    wrapper = TextWrapper(
        118, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(map(wrapper.fill, sentences))
