"""The plots that several reports have: over the number of heads, and over the positions of a window."""

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


def plot_acceptance(path: Path, panels: dict[str, dict[str, list[float]]]) -> None:
    """Panel -> label -> share of drafts accepted at the positions 1, 2, ... of the window."""
    figure = Figure(figsize=(3.2 * len(panels) + 2.2, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, shares in curves.items():
            number = labels.index(label)
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
            panel.plot(range(1, len(shares) + 1), shares, marker=".", label=label, **style)
        panel.set_title(title)
        panel.set_xlabel("position in the window")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_ylim(0, 1.02)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("share accepted")
    lines = {line.get_label(): line for panel in axes for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), fontsize=7, handlelength=3.5, loc="outside right upper")
    figure.savefig(path, dpi=120, metadata={"Software": None})
