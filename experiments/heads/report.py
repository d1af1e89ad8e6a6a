"""REPORT.md and its pictures from results.jsonl and nothing else; what differs and why is in the template.

python -m experiments.heads.report --scale hours --to experiments/heads
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from experiments.heads.evaluate import CHAIN, LEARNT, NGRAM, OWN, PLAIN, TABLE, TREE
from experiments.heads.scales import SCALES, Scale
from experiments.heads.summary import Row, long_blocks, rows
from experiments.heads.trainings import WORK
from experiments.kit.markdown import bullets, runs_table, spread, table
from experiments.kit.plots import plot_acceptance
from experiments.kit.reports import filled, report_command, write_report
from experiments.kit.results import Results

TEMPLATE = Path(__file__).parent / "REPORT.template.md"
DEPTHS, LONG = "depths.png", "long.png"
SHAPES = {CHAIN: "chain", TREE: "tree", LEARNT: "learnt", OWN: "its own"}
BESIDE = {"": "-", NGRAM: "`ngram`", TABLE: "`ngram`, `backoff`"}


def main() -> None:
    report_command(__doc__, SCALES, WORK, report)


def report(folder: Path, to: Path, scale: Scale) -> None:
    """The report on folder/results.jsonl, unless there is one that is newer."""
    write_report(
        folder, to, [TEMPLATE], lambda results: _text(results, to, scale), run="experiments.heads.run"
    )


def _text(results: Results, to: Path, scale: Scale) -> str:
    found = rows(results)
    chains = [row for row in found if row.way[1] == CHAIN]
    plot_acceptance(to / DEPTHS, {"chains": {row.way[0]: list(row.depths) for row in chains}})
    blocks = long_blocks(results)
    _plot_long(to / LONG, blocks, scale.window)
    return filled(
        TEMPLATE,
        {
            "findings": _findings(found),
            "runs": runs_table(results),
            "heads": _heads(results),
            "alone": _alone(found),
            "depths": _depths(chains),
            "mixed": _mixed(found),
            "long": _long(blocks, scale.window),
            "length": scale.ahead,
            "nodes": scale.nodes,
            "texts": found[0].texts,
            "tokens": scale.tokens,
            "own_tokens": f"{scale.own_tokens:,}",
            "drafted": f"{scale.drafted:,}",
            "long_tokens": f"{scale.long:,}",
            "long_prompts": scale.long_prompts,
            "budget": f"{scale.steps} steps" if scale.steps else f"{scale.minutes:g} minutes",
        },
    )


def _findings(found: Sequence[Row]) -> str:
    drafted = [row for row in found if row.way != PLAIN]
    same, texts = sum(row.same for row in drafted), sum(row.texts for row in drafted)
    alone = [row for row in drafted if row.way[0] != "none" and not row.way[2]]
    order = sorted((row for row in alone if row.way[1] == CHAIN), key=lambda row: -row.block)
    longest, fastest = max(alone, key=lambda row: row.block), max(drafted, key=lambda row: row.speed)
    name, slowest = fastest.slowest
    learnt = [
        (row.way[0], median(a / b for a, b in zip(row.speeds, fixed.speeds, strict=True)))
        for row in alone
        for fixed in alone
        if row.way[1] == LEARNT and fixed.way == (row.way[0], OWN, "")
    ]
    return bullets(
        [
            f"{same} of {texts} texts are those of plain decoding.",
            "Chains keep " + ", ".join(f"{row.block:.2f} (`{row.way[0]}`)" for row in order)
            + " tokens per call.",
            f"The most tokens per call without copying are {longest.block:.2f}: {_named(longest)}.",
            "Trees that learn what pays have, in the median text, "
            + ", ".join(f"{ratio:.2f} (`{kind}`)" for kind, ratio in learnt)
            + " times the speed of the shape that the heads have where nobody names one.",
            f"The fastest way has {fastest.speed:.2f} times plain decoding's speed, and {slowest:.2f} times "
            f"in its slowest category ({name}): {_named(fastest)}.",
        ]
    )  # fmt: skip


def _heads(results: Results) -> str:
    lines = [
        [f"`{one['name']}`", f"{one['bytes'] / 1e6:.1f}", f"{one['steps']:,}", f"{one['minutes']:.1f}"]
        for one in results.of("heads")
    ]
    return table(["heads", "MB", "steps", "minutes"], lines)


def _alone(found: Sequence[Row]) -> str:
    lines = [
        [
            f"`{row.way[0]}`", SHAPES[row.way[1]], f"{row.block:.2f}",
            "-" if row.open_block is None else f"{row.open_block:.2f}", f"{row.drafted:.1f}",
            f"{100 * row.draft_share:.0f} %", spread(row.speeds), f"{row.same} of {row.texts}",
        ]
        for row in found
        if row.way[0] != "none" and not row.way[2]
    ]  # fmt: skip
    head = [
        "heads", "shape", "tokens per call", "on open text", "drafted per call", "time to draft",
        "times plain", "same text",
    ]  # fmt: skip
    return table(head, lines)


def _depths(chains: Sequence[Row]) -> str:
    most = max(len(row.depths) for row in chains)
    lines = [
        [
            f"`{row.way[0]}`",
            *(f"{100 * share:.0f} %" for share in row.depths),
            *["-"] * (most - len(row.depths)),
        ]
        for row in chains
    ]
    return table(["heads", *map(str, range(1, most + 1))], lines)


def _mixed(found: Sequence[Row]) -> str:
    some = [row for row in found if row.way != PLAIN and row.way[1] == OWN]
    lines = [
        [
            "-" if row.way[0] == "none" else f"`{row.way[0]}`", BESIDE[row.way[2]], f"{row.block:.2f}",
            f"{row.drafted:.1f}", spread(row.speeds), f"{row.slowest[1]:.2f} ({row.slowest[0]})",
        ]
        for row in sorted(some, key=lambda row: (row.way[2] != "", row.way[2], -row.speed))
    ]  # fmt: skip
    head = ["heads", "beside", "tokens per call", "drafted per call", "times plain", "slowest category"]
    return table(head, lines)


def _long(blocks: dict[str, list[float]], window: int) -> str:
    most = max(map(len, blocks.values()), default=0)
    lines = [
        [f"`{name}`", *(f"{block:.2f}" for block in some), *["-"] * (most - len(some))]
        for name, some in blocks.items()
    ]
    return table(["heads", *(f"to {window * (number + 1):,}" for number in range(most))], lines)


def _plot_long(path: Path, blocks: dict[str, list[float]], window: int) -> None:
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for name, some in blocks.items():
        axes.plot([window * (number + 1) for number in range(len(some))], some, marker="o", label=name)
    axes.set_xlabel("tokens written")
    axes.set_ylabel("tokens per call")
    axes.set_ylim(bottom=1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _named(row: Row) -> str:
    name, shape, beside = row.way
    heads = f"`{name}`, {SHAPES[shape]} shape" if shape == OWN else f"`{name}`, {SHAPES[shape]}"
    if name == "none":
        return BESIDE[beside]
    return f"{heads} with {BESIDE[beside]}" if beside else heads


if __name__ == "__main__":
    main()
