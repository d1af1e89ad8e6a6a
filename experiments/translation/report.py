"""REPORT.md and its figures from results.jsonl and nothing else; what differs and why is in the template.

python -m experiments.translation.report --scale full --to experiments/translation
"""

from __future__ import annotations

from pathlib import Path

from experiments.kit.markdown import runs_table
from experiments.kit.plots import Series, plot_over_heads
from experiments.kit.reports import filled, report_command, write_report
from experiments.kit.results import Results
from experiments.translation import paper, tables
from experiments.translation.heads import RENEWED, TOKENS_PART, TRUNK_RATE
from experiments.translation.prepare import WORK
from experiments.translation.scales import SCALES
from experiments.translation.summary import Row, Summary

TEMPLATE = Path(__file__).parent / "REPORT.template.md"
BLOCKS, SPEED = "blocks.png", "speed.png"


def main() -> None:
    report_command(__doc__, SCALES, WORK, lambda folder, to, _: report(folder, to))


def report(folder: Path, to: Path) -> None:
    """The report on folder/results.jsonl, unless there is one that is newer."""
    write_report(
        folder, to, [TEMPLATE], lambda results: _text(results, to), run="experiments.translation.run"
    )


def _text(results: Results, to: Path) -> str:
    """The report, its figures in a folder."""
    summary = Summary(results)
    rows = summary.chains("match")
    most = max(row.k for row in rows)
    papers = {
        tables.label(*regime): [(k, block) for k, (_, block) in points.items() if k <= most]
        for regime, points in paper.BY_REGIME.items()
    }
    plot_over_heads(to / BLOCKS, _series(rows, "block"), papers, of="tokens per call")
    speeds = [point for point in paper.SPEED.items() if point[0] <= most]
    theirs = {tables.label("finetuned", RENEWED): speeds}
    plot_over_heads(to / SPEED, _series(rows, "speed"), theirs, of="times greedy's speed")
    corpus = results.of("corpus")[0]
    return filled(
        TEMPLATE,
        {
            "findings": tables.findings(summary),
            "runs": runs_table(results),
            "table": tables.regimes(summary),
            "settings": tables.settings(summary),
            "relaxed": tables.relaxed(summary),
            "rescored": tables.rescored(summary),
            "markov": tables.markov(summary),
            "alphas": tables.alphas(results),
            "plain": tables.plain(summary),
            "exact": tables.exact(summary),
            "trainings": tables.trainings(results),
            "num_test": len(summary.greedy("base").record["tokens"]),
            "packages": tables.packages(corpus["packages"]),
            "pieces": f"{corpus['pieces']:,}",
            "trunk_rate": f"{TRUNK_RATE:g} times",
            "tokens_part": f"{TOKENS_PART:g} times",
            **corpus["segments"],
        },
    )


def _series(rows: list[Row], of: str) -> Series:
    """Ours, from greedy on."""
    found: Series = {}
    for row in rows:
        found.setdefault(tables.label(row.regime, row.data), [(1, 1.0)]).append((row.k, getattr(row, of)))
    return {name: sorted(points) for name, points in found.items()}


if __name__ == "__main__":
    main()
