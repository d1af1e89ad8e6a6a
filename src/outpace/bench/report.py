"""Tables from records: by category and over all, what each method did and its ratio to plain decoding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median
from typing import get_args

from outpace.bench.records import Record
from outpace.bench.run import PLAIN
from outpace.core.errors import one_line
from outpace.core.steps import Exactness, weakest
from outpace.core.traits import Numerics
from outpace.models.method import Method

OVERALL, AUTO = "overall", "auto"
COLUMNS = (
    "prompts",
    "tokens/s",
    "ratio",
    "accepted",
    "drafted",
    "draft %",
    "ms/call",
    "exactness",
    "identical",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what one method did on the prompts of one category.

    tokens_per_s          all tokens over all decode time, so long answers weigh more than short ones.
    ratios                of that to plain decoding of the same prompts, one for each round, ascending;
                          none where that has no speed.
    mean_accepted_length  tokens per call, the one that the call itself adds counted.
    passes_per_token      of a looped model's layers, in a pipeline; 0.0 elsewhere.
    drafted_per_call      drafted nodes per call.
    draft_share           the drafter's part of the time after the prompt's call.
    ms_per_call           milliseconds of a call, its choices and the verdict.
    numerics              "ties" where choices between tokens that are that close may fall either way.
    identical_share       the part of the prompts whose tokens are those of plain decoding.
    kept_at               by depth, 1 first: of the drafts whose predecessors were right, the part that was.
    """

    category: str
    method: Method
    num_prompts: int
    tokens_per_s: float
    ratios: Sequence[float]
    mean_accepted_length: float
    passes_per_token: float
    drafted_per_call: float
    draft_share: float
    ms_per_call: float
    exactness: Exactness
    numerics: Numerics
    identical_share: float
    kept_at: Sequence[float] = ()

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios."""
        return median(self.ratios) if self.ratios else None


def summarise(records: Iterable[Record]) -> list[Row]:
    """Rows by category, then over all; categories and methods in the order in which they first appear."""
    groups: dict[str, dict[Method, list[Record]]] = {}
    overall: dict[Method, list[Record]] = {}
    for record in records:
        method = Method(record["draft"], record["tree"], record["rule"])
        groups.setdefault(record["category"], {}).setdefault(method, []).append(record)
        overall.setdefault(method, []).append(record)
    groups[OVERALL] = overall
    return [
        _row(category, method, by_method) for category, by_method in groups.items() for method in by_method
    ]


def format_report(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    columns, figures = _table(rows)
    cells = [(row.category, str(row.method), *cells) for row, cells in zip(rows, figures, strict=True)]
    return markdown_table(("category", "method", *columns), cells, num_text_columns=2)


def format_summary(rows: Sequence[Row]) -> str:
    """A Markdown table of the methods over all, each with the category in which its ratio is worst."""
    worst: dict[Method, tuple[float, str]] = {}
    for row in rows:
        if row.category != OVERALL and row.method != PLAIN and row.ratio is not None:
            worst[row.method] = min(
                worst.get(row.method, (row.ratio, row.category)), (row.ratio, row.category)
            )
    overall = [row for row in rows if row.category == OVERALL]
    columns, figures = _table(overall)
    cells = []
    for row, more in zip(overall, figures, strict=True):
        ratio, category = worst.get(row.method, (None, "-"))
        cells.append((str(row.method), category, _ratio(ratio), *more))
    return markdown_table(("method", "worst category", "worst", *columns), cells, num_text_columns=2)


def format_best(rows: Sequence[Row]) -> str:
    """A Markdown table of `auto` beside the fixed draft that is fastest, by category; "" without both."""
    by_category: dict[str, list[Row]] = {}
    for row in rows:
        if row.ratio is not None and row.method != PLAIN:
            by_category.setdefault(row.category, []).append(row)
    cells = []
    for category, measured in by_category.items():
        fixed = [row for row in measured if row.method.draft != AUTO]
        autos = [row for row in measured if row.method.draft == AUTO]
        if fixed and autos:
            best, auto = (max(some, key=lambda row: row.ratio or 0.0) for some in (fixed, autos))
            share = auto.tokens_per_s / best.tokens_per_s
            cells.append((category, str(best.method), _ratio(best.ratio), _ratio(auto.ratio), f"{share:.2f}"))
    header = ("category", "best fixed draft", "ratio", AUTO, "of the best")
    return markdown_table(header, cells, num_text_columns=2) if cells else ""


def format_depths(rows: Sequence[Row], *, most: int = 8) -> str:
    """A Markdown table of how often drafts are right over all, by depth; "" where no method drafts."""
    overall = [row for row in rows if row.category == OVERALL and row.kept_at]
    deepest = min(most, max((len(row.kept_at) for row in overall), default=0))
    if not deepest:
        return ""
    cells = []
    for row in overall:
        shares = [f"{share:.2f}" for share in row.kept_at[:deepest]]
        cells.append((str(row.method), *shares, *["-"] * (deepest - len(shares))))
    header = ("kept, of drafts behind right ones, at depth", *map(str, range(1, deepest + 1)))
    return markdown_table(header, cells, num_text_columns=1)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_text_columns: int) -> str:
    """A Markdown table that also reads well as text: numbers right-aligned, text columns left-aligned.

    A cell is one printable line, whatever file it comes from.
    """
    rows = [list(map(one_line, row)) for row in rows]
    widths = [max(3, *(len(line[i]) for line in [header, *rows])) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if i < num_text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = ("-" * w if i < num_text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths))
    return "\n".join([line(header), "| " + " | ".join(rule) + " |", *map(line, rows)])


def _table(rows: Sequence[Row]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Columns and their cells; passes stand where a pipeline has run, rounds where there were several."""
    columns: Sequence[str] = COLUMNS
    cells = [_figures(row) for row in rows]
    if any(row.passes_per_token for row in rows):
        passes = [f"{row.passes_per_token:.2f}" if row.passes_per_token else "-" for row in rows]
        columns, cells = _inserted("drafted", "passes/token", passes, columns, cells)
    if any(len(row.ratios) > 1 for row in rows):
        rounds = [f"{row.ratios[0]:.2f} to {row.ratios[-1]:.2f}" if row.ratios else "-" for row in rows]
        columns, cells = _inserted("accepted", "of rounds", rounds, columns, cells)
    return columns, cells


def _inserted(
    before: str,
    name: str,
    column: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[tuple[str, ...]],
) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """A further column, left of another."""
    at = columns.index(before)
    more = [(*one[:at], cell, *one[at:]) for one, cell in zip(cells, column, strict=True)]
    return (*columns[:at], name, *columns[at:]), more


def _figures(row: Row) -> tuple[str, ...]:
    identical = {
        "identical": "yes" if row.identical_share == 1 else "no",
        "distribution": "-",
        "lossy": f"{100 * row.identical_share:.0f} %",
    }
    return (
        str(row.num_prompts),
        f"{row.tokens_per_s:.1f}",
        _ratio(row.ratio),
        f"{row.mean_accepted_length:.2f}",
        f"{row.drafted_per_call:.1f}",
        f"{100 * row.draft_share:.1f}",
        f"{row.ms_per_call:.2f}",
        row.exactness if row.numerics == "bitwise" else f"{row.exactness} (ties)",
        identical[row.exactness],
    )


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _row(category: str, method: Method, by_method: dict[Method, list[Record]]) -> Row:
    records = by_method[method]
    calls = _sum(records, "target_calls")
    accepted = sum(record["mean_accepted_length"] * record["target_calls"] for record in records)
    after_prompt_s = _sum(records, "wall_s") - _sum(records, "prompt_s")
    return Row(
        category=category,
        method=method,
        num_prompts=len({(record["category"], record["prompt_id"]) for record in records}),
        tokens_per_s=_speed(records),
        ratios=_ratios(records, by_method.get(PLAIN, [])),
        mean_accepted_length=accepted / calls if calls else 0.0,
        passes_per_token=sum(record.get("num_passes", 0) for record in records) / accepted
        if accepted
        else 0.0,
        drafted_per_call=_sum(records, "num_drafted") / calls if calls else 0.0,
        draft_share=_sum(records, "draft_s") / after_prompt_s if after_prompt_s > 0 else 0.0,
        ms_per_call=1e3 * _sum(records, "score_s") / calls if calls else 0.0,
        exactness=weakest(*(record["exactness"] for record in records)),
        numerics=max((record.get("numerics", "bitwise") for record in records), key=get_args(Numerics).index),
        identical_share=sum(record["identical_to_plain"] for record in records) / len(records),
        kept_at=_kept_at(records),
    )


def _ratios(records: Sequence[Record], plain: Sequence[Record]) -> list[float]:
    """By round, ascending: the speed of these records as a multiple of plain decoding's."""
    speeds = [{number: _speed(of) for number, of in _by_round(some).items()} for some in (records, plain)]
    return sorted(speed / speeds[1][n] for n, speed in speeds[0].items() if speeds[1].get(n, 0.0) > 0)


def _by_round(records: Iterable[Record]) -> dict[int, list[Record]]:
    rounds: dict[int, list[Record]] = {}
    for record in records:
        rounds.setdefault(record.get("round", 0), []).append(record)
    return rounds


def _kept_at(records: Sequence[Record]) -> list[float]:
    tried = _sums([record.get("num_tried_at", ()) for record in records])
    kept = _sums([record.get("num_kept_at", ()) for record in records])
    return [right / of_all for right, of_all in zip(kept, tried, strict=False) if of_all]


def _sums(lists: Sequence[Sequence[int]]) -> list[int]:
    """By place."""
    return [sum(some) for some in zip_longest(*lists, fillvalue=0)]


def _sum(records: Sequence[Record], name: str) -> float:
    return sum(record[name] for record in records)


def _speed(records: Sequence[Record]) -> float:
    # The first tokens come from the prompt's call; decoding is what follows it.
    timed = [
        (record["mean_accepted_length"] * record["target_calls"], record["tokens_per_s"])
        for record in records
    ]
    seconds = sum(tokens / speed for tokens, speed in timed if speed > 0)
    return sum(tokens for tokens, speed in timed if speed > 0) / seconds if seconds else 0.0
