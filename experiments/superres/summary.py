"""Figures of every setting, out of the records of results.jsonl, and what was found in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from experiments.kit.markdown import bullets
from experiments.kit.results import Record, Results
from experiments.kit.subjects import EXACT
from experiments.superres.evaluate import DISTANCE, HEADS, JACOBI, NEAR

# Stern et al. 2018, arXiv:1811.03115, super-resolution: mean accepted block size by k.
PAPER: dict[tuple[str, str], dict[int, float]] = {
    ("frozen", EXACT): {2: 1.07, 4: 1.08, 6: 1.09, 8: 1.09, 10: 1.10},
    ("frozen", DISTANCE): {2: 1.24, 4: 1.36, 6: 1.38, 8: 1.49, 10: 1.40},
    ("finetuned", EXACT): {2: 1.59, 4: 2.11, 6: 2.23, 8: 2.17, 10: 2.04},
    ("finetuned", DISTANCE): {2: 1.96, 4: 3.75, 6: 5.25, 8: 6.36, 10: 6.79},
}


@dataclass(frozen=True, slots=True)
class Row:
    """One setting.

    block      tokens per call, of all pictures together; calls: the mean of a picture.
    speeds     greedy's time over its own, of each timed picture; speed: of all of them together.
    psnr       in dB, of the mean squared error of all pictures together, against the truth; less: greedy's
               by the same model subtracted; to_greedy: against that one's pictures.
    same       how many of its `num` pictures are greedy's.
    """

    model: str
    regime: str | None
    data: str | None
    k: int
    draft: str
    rule: str
    block: float
    calls: float
    speed: float
    speeds: Sequence[float]
    psnr: float
    less: float
    to_greedy: float
    same: int
    num: int


def rows_of(results: Results) -> list[Row]:
    """All settings, in the order in which they were measured."""
    by_setting: dict[tuple, list[Record]] = {}
    for record in results.of("picture"):
        key = tuple(record[name] for name in ("model", "regime", "data", "k", "draft", "rule"))
        by_setting.setdefault(key, []).append(record)
    greedy = {
        model: _mean_psnr(some, "mse_truth")
        for (model, *_, rule), some in by_setting.items()
        if rule == "greedy"
    }
    rows = []
    for (model, regime, data, k, draft, rule), some in by_setting.items():
        times = results.of("time", model=model, regime=regime, data=data, k=k, draft=draft, rule=rule)
        own, greedys = (sum(one[name] for one in times) for name in ("wall_s", "greedy_wall_s"))
        rows.append(
            Row(
                model, regime, data, k, draft, rule,
                block=sum(one["tokens"] for one in some) / sum(one["calls"] for one in some),
                calls=mean(one["calls"] for one in some),
                speed=greedys / own if times else math.nan,
                speeds=[one["greedy_wall_s"] / one["wall_s"] for one in times],
                psnr=_mean_psnr(some, "mse_truth"),
                less=_mean_psnr(some, "mse_truth") - greedy[model],
                to_greedy=_mean_psnr(some, "mse_greedy"),
                same=sum(one["mse_greedy"] == 0 for one in some),
                num=len(some),
            )
        )  # fmt: skip
    return rows


def psnr(errors: Sequence[float]) -> float:
    """In dB, of the mean squared error of all pictures together."""
    error = mean(errors)
    return 10 * math.log10(255**2 / error) if error else math.inf


def findings(rows: Sequence[Row]) -> str:
    """What was found, a sentence a line."""
    exact = [row for row in rows if row.rule == EXACT]
    same, num = sum(row.same for row in exact), sum(row.num for row in exact)
    lines = [f"The exact rule writes greedy's own picture in {same} of {num} cases."]
    for regime in ("frozen", "finetuned"):
        kept = _most(rows, lambda row: row.block, regime=regime, rules=(EXACT,), drafts=(HEADS,))
        close = _most(rows, lambda row: row.block, regime=regime, rules=(DISTANCE,), drafts=(HEADS,))
        lines.append(
            f"{regime.capitalize()} heads keep up to {kept.block:.2f} intensities per call with the exact "
            f"rule (k = {kept.k}{_paper(kept)}), and up to {close.block:.2f} with the distance rule "
            f"(k = {close.k}{_paper(close)})."
        )
    fast = _most(rows, lambda row: row.speed, rules=(DISTANCE,), drafts=(HEADS, NEAR))
    side = "above" if fast.less > 0 else "below"
    lines.append(
        f"The fastest heads (`{fast.model}`, distance rule, draft `{fast.draft}`) are {fast.speed:.2f} times "
        f"as fast as greedy, at a PSNR {abs(fast.less):.2f} dB {side} greedy's."
    )
    free = _most(rows, lambda row: row.speed, rules=(EXACT,), drafts=(JACOBI,))
    lines.append(
        f"Without heads, `jacobi` drafts keep {free.block:.2f} intensities per call with the exact rule, at "
        f"{free.speed:.2f} times greedy's speed."
    )
    return bullets(lines)


def _most(
    rows: Iterable[Row],
    of: Callable[[Row], float],
    *,
    rules: Sequence[str],
    drafts: Sequence[str],
    regime: str | None = None,
) -> Row:
    """The row that has most, of models and heads that learned from real pictures."""
    found = [
        row
        for row in rows
        if row.rule in rules and row.draft in drafts and row.data == "gold" and regime in (None, row.regime)
    ]
    return max(found, key=of)


def _paper(row: Row) -> str:
    theirs = PAPER.get((row.regime or "", row.rule), {}).get(row.k)
    return f"; the paper {theirs:.2f}" if theirs is not None else ""


def _mean_psnr(pictures: Sequence[Record], error: str) -> float:
    return psnr([one[error] for one in pictures])
