"""The tables and sentences of the report."""

from __future__ import annotations

from typing import Any

from experiments.kit.markdown import bullets, exactness, spread, table
from experiments.kit.results import Results
from experiments.translation import paper
from experiments.translation.base import BASE
from experiments.translation.heads import DATA, RENEWED
from experiments.translation.settings import (
    LATTICE,
    MARKOV_CHAIN,
    MARKOV_TREE,
    MIN_BLOCK,
    TOP2,
    TOP3,
    TREE,
)
from experiments.translation.summary import Row, Summary

RULES = {"match": "exact", TOP2: "top-2", TOP3: "top-3", MIN_BLOCK: "minimum block"}


def label(regime: str, data: str) -> str:
    """Of a column or a line in a plot."""
    return f"{regime}, {data}"


def findings(summary: Summary) -> str:
    """What was found, a sentence a line."""
    chains = {(row.regime, row.data, row.k): row for row in summary.chains("match")}
    most = max(k for _, _, k in chains)
    rows = [row for row in summary.drafted() if row.rule == "match"]
    relaxed = [row for row in summary.drafted() if row.rule != "match"]
    longest, fastest, lossy = max(rows, key=_block), max(rows, key=_speed), max(relaxed, key=_speed)
    kept = [
        f"{chains[regime, data, most].block:.2f} ({label(regime, data)}{_paper(points.get(most))})"
        for (regime, data), points in paper.BY_REGIME.items()
    ]
    base = summary.greedy(BASE).bleu
    costs = [f"to {chains['finetuned', data, most].bleu:.2f} ({data})" for data in DATA]
    return bullets(
        [
            exact(summary),
            f"Chains of k = {most} keep {', '.join(kept)} tokens per call with the exact rule.",
            f"Finetuning changes BLEU from {base:.2f} {', '.join(costs)}.",
            f"The most tokens per call of an exact setting are {longest.block:.2f}: {_named(longest)}.",
            f"The fastest exact setting has {fastest.speed:.2f} times greedy's speed ({_named(fastest)}), "
            f"the fastest lossy one {lossy.speed:.2f} times ({_named(lossy)}).",
        ]
    )


def regimes(summary: Summary) -> str:
    """The paper's table: a line for each k, in a cell BLEU / block size, the paper's in brackets."""
    rows = {(row.regime, row.data, row.k): row for row in summary.chains("match")}
    lines = []
    for k in (1, *sorted({k for _, _, k in rows})):
        cells = [str(k)]
        for regime, data in paper.BY_REGIME:
            row = rows.get((regime, data, k))
            if k == 1 and regime == "frozen":
                row = summary.greedy(BASE)
            cells.append(_cell(row, paper.BY_REGIME[regime, data].get(k)))
        lines.append(cells)
    return table(["k", *(label(*column) for column in paper.BY_REGIME)], lines)


def relaxed(summary: Summary) -> str:
    """The same for the rules that are not exact."""
    columns = ("match", TOP2, TOP3, MIN_BLOCK)
    rows = {
        (row.rule, row.k): row
        for rule in columns
        for row in summary.chains(rule)
        if (row.regime, row.data) == ("finetuned", RENEWED)
    }
    lines = [
        [str(k), *(_cell(rows.get((rule, k)), paper.BY_RULE.get(rule, {}).get(k)) for rule in columns)]
        for k in sorted({k for _, k in rows})
    ]
    return table(["k", *(RULES[rule] for rule in columns)], lines)


def settings(summary: Summary) -> str:
    """A line for each setting: all that was measured of it."""
    lines = []
    for row in summary.drafted():
        alpha = f", alpha {row.record['alpha']:g}" if "alpha" in row.record else ""
        middle, low, high = row.difference
        lines.append(
            [
                row.model, str(row.k), row.draft + alpha, RULES[row.rule], f"{row.bleu:.2f}",
                f"{middle:+.2f} ({low:+.2f} to {high:+.2f})", f"{row.block:.2f}",
                f"{row.record['same']} of {len(row.record['tokens'])}",
                f"{row.speed:.2f}; {spread(row.speeds)}",
                f"{summary.other_speed(row, 'transformers'):.2f}",
                f"{summary.other_speed(row, 'ctranslate2'):.2f}",
            ]
        )  # fmt: skip
    head = [
        "model", "k", "draft", "rule", "BLEU", "less the base's greedy", "tokens per call", "same as greedy",
        "times greedy's speed", "times `generate`'s", "times CTranslate2's",
    ]  # fmt: skip
    return table(head, lines)


def plain(summary: Summary) -> str:
    """A line for each model without heads."""
    lines = []
    for row in summary.rows:
        if row.draft == "none":
            middle, low, high = row.difference
            theirs, other = (summary.same(row.model, draft) for draft in ("transformers", "ctranslate2"))
            lines.append(
                [
                    row.model, f"{row.bleu:.2f}", f"{middle:+.2f} ({low:+.2f} to {high:+.2f})",
                    f"{1000 * sum(row.times.values()) / len(row.times):.1f}",
                    f"{1 / summary.other_speed(row, 'transformers'):.2f}", f"{theirs[0]} of {theirs[1]}",
                    f"{1 / summary.other_speed(row, 'ctranslate2'):.2f}", f"{other[0]} of {other[1]}",
                ]
            )  # fmt: skip
    head = [
        "model", "BLEU", "less the base's", "ms a segment", "`generate`: times our greedy's speed",
        "same tokens", "CTranslate2: times our greedy's speed", "same tokens",
    ]  # fmt: skip
    return table(head, lines)


def rescored(summary: Summary) -> str:
    """Chains, trees, and trees with n-grams of the same heads."""
    rows = {(row.model, row.regime, row.data, row.k, row.draft): row for row in summary.drafted()
            if row.rule == "match"}  # fmt: skip
    lines = []
    for (model, regime, data, k, draft), mended in rows.items():
        if draft == LATTICE:
            chain, tree = (rows[model, regime, data, k, other] for other in ("chain", TREE))
            lines.append(
                [
                    label(mended.regime, mended.data), str(mended.k), f"{chain.block:.2f}",
                    f"{tree.block:.2f}", f"{mended.block:.2f}", f"{mended.record['alpha']:g}",
                    f"{100 * (mended.block / tree.block - 1):+.1f} %", f"{chain.speed:.2f}",
                    f"{tree.speed:.2f}", f"{mended.speed:.2f}",
                ]
            )  # fmt: skip
    head = [
        "heads", "k", "chain", "tree", "tree with n-grams", "alpha", "by n-grams", "speed: chain", "tree",
        "tree with n-grams",
    ]  # fmt: skip
    return table(head, lines)


def markov(summary: Summary) -> str:
    """Blockwise heads and Markov heads of the same model, for the largest k."""
    rows = {(row.model, row.draft): row for row in summary.drafted() if row.rule == "match"}
    blockwise = {MARKOV_CHAIN: "chain", MARKOV_TREE: TREE}
    lines = []
    for (model, draft), row in rows.items():
        if draft in blockwise:
            others = [
                one
                for one in summary.drafted()
                if (one.model, one.draft, one.k, one.rule) == (model, blockwise[draft], row.k, "match")
            ]
            other = max(others, key=_block)
            lines.append(
                [
                    model, blockwise[draft], str(row.k), f"{other.block:.2f}", f"{row.block:.2f}",
                    f"{other.speed:.2f}", f"{row.speed:.2f}",
                ]
            )  # fmt: skip
    head = ["model", "draft", "k", "blockwise", "Markov", "speed: blockwise", "Markov"]
    return table(head, lines)


def alphas(results: Results) -> str:
    """What the choice of alpha on dev segments rests on: tokens per call."""
    records = results.of("alpha")
    tried = sorted({record["alpha"] for record in records})
    by_heads: dict[str, dict[float, str]] = {}
    for record in records:
        cells = by_heads.setdefault(label(record["regime"], record["data"]), {})
        cells[record["alpha"]] = f"{record['tokens'] / record['calls']:.3f}"
    lines = [[heads, *(cells[alpha] for alpha in tried)] for heads, cells in by_heads.items()]
    return table(["heads", *(f"alpha {alpha:g}" for alpha in tried)], lines)


def exact(summary: Summary) -> str:
    """How many outputs of the exact rule are greedy's."""
    rows = [row for row in summary.drafted() if row.rule == "match"]
    margins = [margin for row in rows for margin in row.record["margins"]]
    return exactness(
        sum(len(row.record["tokens"]) for row in rows), margins, what="translations", token="piece"
    )


def trainings(results: Results) -> str:
    """Steps and time of every training."""
    lines = [
        [
            name, f"{of['steps']}", f"{of['minutes']:.1f}", f"{of['passes']:.1f}" if "passes" in of else "-",
            f"{of['dev_bleu']:.2f}" if "dev_bleu" in of else "-", f"{model['weights'] / 1e6:.1f}",
        ]
        for model in results.of("model")
        for name, of in model["trainings"].items()
    ]  # fmt: skip
    head = [
        "training",
        "steps",
        "minutes",
        "passes over its data",
        "dev BLEU",
        "million weights of the model",
    ]
    return table(head, lines)


def packages(listed: list[dict[str, Any]]) -> str:
    """Where the segments are from."""
    lines = [
        [one["package"], one["version"], one["licence"].replace("|", "/"), f"{one['pairs']}"]
        for one in sorted(listed, key=lambda one: -one["pairs"])
    ]
    return table(["package", "version", "licence", "segments"], lines)


def _block(row: Row) -> float:
    return row.block


def _speed(row: Row) -> float:
    return row.speed


def _named(row: Row) -> str:
    """A setting in words."""
    rule = "" if row.rule == "match" else f", {RULES[row.rule]}"
    return f"{label(row.regime, row.data)}, k = {row.k}, {row.draft}{rule}"


def _paper(point: tuple[float, float] | None) -> str:
    return "" if point is None else f"; the paper {point[1]:.2f}"


def _cell(row: Row | None, theirs: tuple[float, float] | None) -> str:
    if row is None:
        return "-"
    ours = f"{row.bleu:.2f} / {row.block:.2f}"
    return ours if theirs is None else f"{ours} ({theirs[0]:.2f} / {theirs[1]:.2f})"
