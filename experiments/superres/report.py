"""REPORT.md and its figures from results.jsonl and nothing else; what differs and why is in the template.

python -m experiments.superres.report --scale full --to experiments/superres
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from experiments.kit.markdown import exactness, runs_table, spread, table
from experiments.kit.plots import Series, plot_over_heads
from experiments.kit.reports import filled, report_command, write_report
from experiments.kit.results import Results
from experiments.superres.figures import draw_pictures
from experiments.superres.pictures import WORK
from experiments.superres.scales import SCALES
from experiments.superres.summary import PAPER, Row, findings, psnr, rows_of

TEMPLATE = Path(__file__).parent / "REPORT.template.md"
BLOCKS, PICTURES = "blocks.png", "pictures.png"

Column = tuple[str, str, str, str]
"""(regime, data, draft, rule)."""
RULES = {"match": "exact"}


def main() -> None:
    report_command(__doc__, SCALES, WORK, lambda folder, to, _: report(folder, to))


def report(folder: Path, to: Path) -> None:
    """The report on folder/results.jsonl, unless there is one that is newer."""
    write_report(folder, to, [TEMPLATE], lambda results: _text(results, to), run="experiments.superres.run")


def _text(results: Results, to: Path) -> str:
    """The report, its figures in a folder."""
    blocks, rows = _blocks(results), rows_of(results)
    papers = {
        _label((regime, "gold", "heads", rule)): list(points.items())
        for (regime, rule), points in PAPER.items()
    }
    shown = {label: [point for point in points if point[0] <= 8] for label, points in papers.items()}
    plot_over_heads(to / BLOCKS, _series(blocks), shown, of="tokens per call")
    draw_pictures(to / PICTURES, results, _largest_finetuned(results))
    return filled(
        TEMPLATE,
        {
            "findings": findings(rows),
            "runs": runs_table(results),
            "blocks": _blocks_table(blocks),
            "settings": _settings_table(rows),
            "models": _models_table(results),
            "exact": _exactness(results),
            "drawn": _largest_finetuned(results),
            "bicubic": f"{psnr([r['mse_bicubic'] for r in results.of('picture', rule='greedy')]):.2f}",
        },
    )


def _blocks(results: Results) -> dict[Column, dict[int, float]]:
    """Tokens per call of all pictures together, by column and k."""
    totals: dict[tuple[Column, int], Counter[str]] = {}
    for record in results.of("picture"):
        if record["draft"] in ("heads", "near"):
            column = (record["regime"], record["data"], record["draft"], record["rule"])
            total = totals.setdefault((column, record["k"]), Counter())
            total.update(tokens=record["tokens"], calls=record["calls"])
    blocks: dict[Column, dict[int, float]] = {}
    for (column, k), total in totals.items():
        blocks.setdefault(column, {})[k] = total["tokens"] / total["calls"]
    return blocks


def _series(blocks: dict[Column, dict[int, float]]) -> Series:
    return {_label(column): sorted(points.items()) for column, points in blocks.items()}


def _label(column: Column) -> str:
    regime, data, draft, rule = column
    own = ", own pictures" if data == "own" else ""
    near = ", near" if draft == "near" else ""
    return f"{regime}{own}{near}, {RULES.get(rule, rule)}"


def _blocks_table(blocks: dict[Column, dict[int, float]]) -> str:
    """A line for each k, a cell "ours (paper's)" for each column."""
    lines = []
    for k in sorted({k for points in blocks.values() for k in points}):
        cells = [str(k)]
        for (regime, data, draft, rule), points in blocks.items():
            paper = PAPER[regime, rule].get(k) if (data, draft) == ("gold", "heads") else None
            cells.append(f"{points[k]:.2f}" if k in points else "-")
            cells[-1] += f" ({paper:.2f})" if paper is not None else ""
        lines.append(cells)
    return table(["k", *map(_label, blocks)], lines)


def _settings_table(rows: Sequence[Row]) -> str:
    """A line for each setting: calls, time, errors."""
    lines = [
        [
            row.model, "-" if row.draft in ("none", "jacobi") else row.data or "-", str(row.k), row.draft,
            RULES.get(row.rule, row.rule), f"{row.block:.2f}", f"{row.calls:.0f}", _speed(row),
            f"{row.psnr:.2f}", f"{row.less:+.2f}",
            "-" if math.isinf(row.to_greedy) else f"{row.to_greedy:.1f}", f"{row.same} of {row.num}",
        ]
        for row in rows
    ]  # fmt: skip
    head = [
        "model", "heads trained on", "k", "draft", "rule", "tokens per call", "calls", "times greedy's speed",
        "PSNR", "less greedy's", "PSNR to greedy", "same as greedy",
    ]  # fmt: skip
    return table(head, lines)


def _speed(row: Row) -> str:
    """Times greedy's: of all pictures together; their median and middle half."""
    if row.rule == "greedy":
        return "1"
    return f"{row.speed:.2f}; {spread(row.speeds)}" if row.speeds else "-"


def _models_table(results: Results) -> str:
    lines = [
        [name, f"{of['steps']}", f"{of['minutes']:.1f}", f"{model['test_bits']:.3f}"]
        for model in results.of("model")
        for name, of in model["trainings"].items()
    ]
    return table(["training", "steps", "minutes", "test bits an intensity, of its model"], lines)


def _exactness(results: Results) -> str:
    exact = results.of("picture", rule="match")
    margins = [record["margin"] for record in exact if record["margin"] is not None]
    return exactness(len(exact), margins, what="pictures written", token="intensity")


def _largest_finetuned(results: Results) -> str:
    """The model whose pictures are drawn."""
    found = results.of("picture", regime="finetuned", data="gold")
    return str(max(found, key=lambda record: record["k"])["model"])


if __name__ == "__main__":
    main()
