"""The tables and sentences of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.kit.markdown import bullets, spread, table
from experiments.kit.results import Results
from experiments.speed.decoding import PLAIN
from experiments.speed.models import SPEED
from experiments.speed.summary import Row, Summary

FAMILIES = {"language": "perplexity", "translation": "BLEU"}


def findings(summary: Summary) -> str:
    """What was found, a sentence a line."""
    same, texts = sum(row.same for row in summary.rows), sum(row.texts for row in summary.rows)
    said = [f"{same} of {texts} texts that were decoded in all ways are those of plain decoding."]
    for row in _planned(summary):
        plain = summary.row(row.name, PLAIN)
        said.append(
            f"`{row.name}` ({row.loops} loops, {_millions(row)}): SPEED takes {row.passes:.2f} passes per "
            f"token in place of {plain.passes:.2f} and has {row.speed:.2f} times the speed of plain decoding."
        )
    for family, of in FAMILIES.items():
        deep, speed = (_first(summary, family, f"-{kind}") for kind in ("deep", SPEED))
        if deep and speed:
            planned = summary.row(speed.name, "speed")
            said.append(
                f"{of} is {speed.model['quality']:.2f} with shared layers and early losses and "
                f"{deep.model['quality']:.2f} with {deep.model['weights'] / speed.model['weights']:.1f} "
                f"times as many weights, at {1000 * planned.token_s:.2f} and {1000 * deep.token_s:.2f} ms "
                "per token."
            )
    return bullets(said)


def models(summary: Summary) -> str:
    """A line for each model."""
    lines = []
    for model in summary.models:
        training, settings = model["training"], model["settings"]
        lines.append(
            [
                model["model"], f"{model['weights'] / 1e6:.1f}", str(model["loops"]),
                ", ".join(f"{loop}: {weight:g}" for loop, weight in settings["early"].items()) or "-",
                str(training["steps"]), f"{training['minutes']:.1f}",
                f"{FAMILIES[model['family']]} {model['quality']:.2f}",
            ]
        )  # fmt: skip
    head = ["model", "million weights", "loops", "early losses", "steps", "minutes", "quality"]
    return table(head, lines)


def latency(summary: Summary) -> str:
    """A line for each model as it is used: plainly, and with SPEED as planned."""
    lines = [
        [
            row.name, row.way, f"{row.model['quality']:.2f}", f"{1000 * row.token_s:.3f}",
            f"{row.passes:.2f}", spread(row.speeds), f"{row.same} of {row.texts}",
        ]
        for row in summary.rows
        if row.way in (PLAIN, "speed") and not row.temperature
    ]  # fmt: skip
    head = ["model", "way", "quality", "ms per token", "passes per token", "times plain", "same text"]
    return table(head, lines)


def agreement(summary: Summary) -> str:
    """How often each loop names what the last one does, in the models' own greedy text."""
    rows = [row for row in summary.rows if row.way == PLAIN and row.agree]
    most = max(len(row.agree) for row in rows)
    lines = [
        [row.name, *(f"{share:.3f}" for share in row.agree), *["-"] * (most - len(row.agree))] for row in rows
    ]
    return table(["model", *(f"loop {loop + 1}" for loop in range(most))], lines)


def formula(summary: Summary) -> str:
    """Passes per token beside a * d1 + (1 - a) * R."""
    lines = []
    for row in summary.rows:
        if row.formula is not None:
            off = row.passes / row.formula - 1
            lines.append(
                [row.name, str(row.early), f"{row.formula:.3f}", f"{row.passes:.3f}", f"{100 * off:+.1f} %"]
            )
    return table(["model", "d1", "a * d1 + (1 - a) * R", "passes per token", "off by"], lines)


def sweep(summary: Summary) -> str:
    """Every way of the models that were trained for SPEED, greedy and sampled."""
    lines = []
    for row in summary.rows:
        if SPEED in row.name:
            lines.append(
                [
                    row.name, f"{row.temperature:g}", f"`{row.way}`", f"{row.passes:.2f}",
                    f"{1000 * row.token_s:.3f}", spread(row.speeds), f"{row.same} of {row.texts}",
                ]
            )  # fmt: skip
    head = ["model", "temperature", "draft", "passes per token", "ms per token", "times plain", "same text"]
    return table(head, lines)


def planner(summary: Summary) -> str:
    """The planner's speed beside the best of the sweep."""
    lines = []
    for row in summary.rows:
        if row.way != "speed":
            continue
        fixed = [
            other
            for other in summary.rows
            if (other.name, other.temperature) == (row.name, row.temperature) and "early=" in other.way
        ]
        if fixed:
            best = min(fixed, key=lambda one: one.token_s)
            lines.append(
                [
                    row.name, f"{row.temperature:g}", f"{1000 * row.token_s:.3f}", f"`{best.way}`",
                    f"{1000 * best.token_s:.3f}", f"{row.token_s / best.token_s:.2f}",
                ]
            )  # fmt: skip
    head = [
        "model",
        "temperature",
        "planned, ms per token",
        "best of the sweep",
        "its ms per token",
        "times the best's",
    ]
    return table(head, lines)


def packages(results: Results) -> str:
    """A line for each package of the text."""
    listed: list[dict[str, Any]] = results.of("corpus")[0]["packages"]
    used = [one for one in listed if one["characters"]]
    lines = [
        [one["package"], one["version"], f"{one['characters']:,}", one["licence"].replace("|", "/")]
        for one in used
    ]
    return table(["package", "version", "characters", "licence"], lines)


def _planned(summary: Summary) -> list[Row]:
    return [row for row in summary.rows if row.way == "speed" and SPEED in row.name and not row.temperature]


def _first(summary: Summary, family: str, ending: str) -> Row | None:
    rows: Sequence[Row] = [
        row for row in summary.of(family) if row.name.endswith(ending) and row.way == PLAIN
    ]
    return rows[0] if rows else None


def _millions(row: Row) -> str:
    return f"{row.model['weights'] / 1e6:.1f} million weights"
