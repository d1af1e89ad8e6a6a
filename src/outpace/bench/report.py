"""Tables from records: by category and over all, the speed of each draft and its ratio to plain decoding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from outpace.bench.records import Record
from outpace.bench.run import PLAIN

OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what one draft did on the prompts of one category.

    tokens_per_s is all tokens over all decode time, so long answers weigh more than short ones. ratio is
    against plain decoding of the same prompts; None where that has no speed.
    """

    category: str
    draft: str
    num_prompts: int
    tokens_per_s: float
    ratio: float | None
    mean_accepted_length: float
    identical: bool


def summarise(records: Iterable[Record]) -> list[Row]:
    """Rows by category, then over all; categories and drafts in the order in which they first appear."""
    groups: dict[str, dict[str, list[Record]]] = {}
    overall: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["category"], {}).setdefault(record["draft"], []).append(record)
        overall.setdefault(record["draft"], []).append(record)
    groups[OVERALL] = overall
    return [_row(category, draft, by_draft) for category, by_draft in groups.items() for draft in by_draft]


def format_report(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    cells = [
        (
            row.category,
            row.draft,
            str(row.num_prompts),
            f"{row.tokens_per_s:.1f}",
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            f"{row.mean_accepted_length:.2f}",
            "yes" if row.identical else "no",
        )
        for row in rows
    ]
    header = (
        "category",
        "draft",
        "prompts",
        "tokens/s",
        "ratio to plain",
        "mean accepted length",
        "identical",
    )
    return markdown_table(header, cells, num_text_columns=2)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_text_columns: int) -> str:
    """A Markdown table that also reads well as text: numbers right-aligned, text columns left-aligned."""
    widths = [max(3, *(len(line[i]) for line in [header, *rows])) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if i < num_text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = ("-" * w if i < num_text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths))
    return "\n".join([line(header), "| " + " | ".join(rule) + " |", *map(line, rows)])


def _row(category: str, draft: str, by_draft: dict[str, list[Record]]) -> Row:
    records = by_draft[draft]
    speed = _speed(records)
    plain = _speed(by_draft.get(PLAIN, []))
    calls = sum(record["target_calls"] for record in records)
    accepted = sum(record["mean_accepted_length"] * record["target_calls"] for record in records)
    return Row(
        category=category,
        draft=draft,
        num_prompts=len(records),
        tokens_per_s=speed,
        ratio=speed / plain if plain > 0 else None,
        mean_accepted_length=accepted / calls if calls else 0.0,
        identical=all(record["identical_to_plain"] for record in records),
    )


def _speed(records: Sequence[Record]) -> float:
    # The first token comes from the prompt's call; decoding is what follows it.
    timed = [(record["completion_tokens"] - 1, record["tokens_per_s"]) for record in records]
    seconds = sum(tokens / speed for tokens, speed in timed if speed > 0)
    return sum(tokens for tokens, speed in timed if speed > 0) / seconds if seconds else 0.0
