"""The plot that both reports have: something over the number of heads, ours beside the paper's."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

Series = dict[str, list[tuple[int, float]]]
"""Label -> (k, value)."""


def plot_over_heads(path: Path, ours: Series, papers: Series, *, of: str) -> None:
    """Ours as lines, the paper's dashed in the same colours."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (label, points) in enumerate(ours.items()):
        axes.plot(*zip(*points, strict=True), marker="o", color=f"C{number}", label=label)
        if label in papers:
            axes.plot(*zip(*papers[label], strict=True), ":", color=f"C{number}", label=f"{label}, paper")
    axes.set_xticks(sorted({k for points in (*ours.values(), *papers.values()) for k, _ in points}))
    axes.set_xlabel("heads k")
    axes.set_ylabel(of)
    if min(value for points in ours.values() for _, value in points) >= 1:
        axes.set_ylim(bottom=1)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=120, metadata={"Software": None})
