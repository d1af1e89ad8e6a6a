"""REPORT.md and its picture from results.jsonl and nothing else; what differs and why is in the template.

python -m experiments.speed.report --scale hours --to experiments/speed
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from experiments.kit.markdown import runs_table
from experiments.kit.reports import filled, report_command, write_report
from experiments.kit.results import Results
from experiments.speed import tables
from experiments.speed.prepare import WORK
from experiments.speed.scales import SCALES
from experiments.speed.summary import Summary

TEMPLATE = Path(__file__).parent / "REPORT.template.md"
PICTURE = "quality.png"
MARKS = {"none": "o", "speed": "^"}


def main() -> None:
    report_command(__doc__, SCALES, WORK, lambda folder, to, _: report(folder, to))


def report(folder: Path, to: Path) -> None:
    """The report on folder/results.jsonl, unless there is one that is newer."""
    write_report(folder, to, [TEMPLATE], lambda results: _text(results, to), run="experiments.speed.run")


def _text(results: Results, to: Path) -> str:
    summary = Summary(results)
    plot_quality(to / PICTURE, summary)
    (corpus,) = results.of("corpus")
    return filled(
        TEMPLATE,
        {
            "findings": tables.findings(summary),
            "runs": runs_table(results),
            "models": tables.models(summary),
            "latency": tables.latency(summary),
            "agreement": tables.agreement(summary),
            "formula": tables.formula(summary),
            "planner": tables.planner(summary),
            "sweep": tables.sweep(summary),
            "packages": tables.packages(results),
            "tokens": f"{corpus['tokens']['train'] / 1e6:.1f}",
            "vocabulary": f"{corpus['vocabulary']:,}",
        },
    )


def plot_quality(path: Path, summary: Summary) -> None:
    """Quality over latency: circles are plain decoding, triangles SPEED of the same model."""
    rows_of = {family: [row for row in summary.of(family) if row.way in MARKS] for family in tables.FAMILIES}
    drawn = {family: rows for family, rows in rows_of.items() if rows}
    figure = Figure(figsize=(5 * len(drawn), 4.2), layout="constrained")
    for axes, (family, rows) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True
    ):
        quality = tables.FAMILIES[family]
        names = list(dict.fromkeys(row.name for row in rows))
        for number, name in enumerate(names):
            some = sorted((row for row in rows if row.name == name), key=lambda row: row.way)
            points = [(1000 * row.token_s, row.model["quality"]) for row in some]
            axes.plot(*zip(*points, strict=True), ":", color=f"C{number}")
            for row, (x, y) in zip(some, points, strict=True):
                label = name.removeprefix(f"{family}-") if row.way == "none" else None
                axes.plot(x, y, MARKS[row.way], color=f"C{number}", label=label)
        axes.set_xlabel("ms per token")
        axes.set_ylabel(quality)
        axes.set_xscale("log")
        axes.set_title(f"{family}: circles plain, triangles SPEED", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
