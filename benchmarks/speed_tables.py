"""Tables of what `turns.py` measured: each figure from the smallest times and from the medians of the rounds.

The smallest is what an engine does when its neighbours leave it alone; the median what it did on that day.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.turns import Measured
from outpace.bench.report import markdown_table

PLAIN = "plain"
STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {"smallest": min, "median": statistics.median}

Of = Callable[[Sequence[float]], float]


def decode_table(measured: Measured, reference: str) -> str:
    """Tokens per second after the first token, and what that is to the reference engine's plain decoding."""
    rows = []
    for (engine, method), by_prompt in measured.answers.items():
        plain = measured.answers[engine, PLAIN]
        same = sum(
            repeats[0]["token_ids"] == plain[name][0]["token_ids"] for name, repeats in by_prompt.items()
        )
        speeds = [decode_speed(measured, engine, method, of) for of in STATISTICS.values()]
        to = [
            speed / decode_speed(measured, reference, PLAIN, of)
            for speed, of in zip(speeds, STATISTICS.values(), strict=True)
        ]
        cells = [f"{speed:.1f}" for speed in speeds] + [f"{ratio:.2f}" for ratio in to]
        rows.append((engine, method, *cells, f"{same}/{len(by_prompt)}"))
    header = (
        "engine", "decoding", "tokens/s", "median", f"speed to {reference} plain", "median",
        "prompts identical to its plain",
    )  # fmt: skip
    return markdown_table(header, rows, num_text_columns=2)


def call_table(measured: Measured) -> str:
    """Milliseconds of a call of M tokens: smallest, and the median behind it."""
    sizes = sorted({size for by_size in measured.calls.values() for size in by_size})
    rows = [
        (
            engine,
            *(
                f"{1e3 * min(by_size[size]):.1f} ({1e3 * statistics.median(by_size[size]):.1f})"
                for size in sizes
            ),
        )
        for engine, by_size in measured.calls.items()
    ]
    return markdown_table(("ms of a call", *(f"M={size}" for size in sizes)), rows, num_text_columns=1)


def prompt_table(measured: Measured, num_tokens: int, reference: str) -> str:
    """Milliseconds to process a prompt up to the choice of the next token."""
    rows = []
    for engine, seconds in measured.prompts.items():
        ratios = (of(measured.prompts[reference]) / of(seconds) for of in STATISTICS.values())
        times = (f"{1e3 * of(seconds):.1f}" for of in STATISTICS.values())
        rows.append(
            (engine, *times, f"{num_tokens / min(seconds):.0f}", *(f"{ratio:.2f}" for ratio in ratios))
        )
    header = (
        "engine", f"ms for {num_tokens} tokens", "median", "tokens/s", f"speed to {reference}", "median",
    )  # fmt: skip
    return markdown_table(header, rows, num_text_columns=1)


def lead_table(measured: Measured, ours: str, reference: str, call_size: int = 8) -> str:
    """How far `ours` leads: the reference in each part, and the fastest drafting of any peer."""
    peers = sorted({engine for engine, _ in measured.answers} - {ours})
    rows = []

    def row(what: str, against: str, speed: Callable[[str, Of], float]) -> None:
        ratios = (speed(ours, of) / speed(against, of) for of in STATISTICS.values())
        rows.append((what, against, *(f"{ratio:.2f}" for ratio in ratios)))

    row("plain decoding", reference, lambda engine, of: decode_speed(measured, engine, PLAIN, of))
    if call_size in measured.calls.get(ours, {}) and call_size in measured.calls.get(reference, {}):
        row(
            f"a call of {call_size}",
            reference,
            lambda engine, of: 1 / of(measured.calls[engine][call_size]),
        )
    if reference in measured.prompts:
        row("a prompt", reference, lambda engine, of: 1 / of(measured.prompts[engine]))
    drafting = [peer for peer in peers if _best_draft(measured, peer, min) is not None]
    if drafting and _best_draft(measured, ours, min) is not None:
        ratios, names = [], []
        for of in STATISTICS.values():
            method, speed = _best_draft(measured, ours, of) or ("", 0.0)
            best = {peer: _best_draft(measured, peer, of) or ("", 0.0) for peer in drafting}
            peer = max(best, key=lambda name: best[name][1])
            names.append(f"{method} against {peer} {best[peer][0]}")
            ratios.append(f"{speed / best[peer][1]:.2f}")
        rows.append(("best drafted decoding", " / ".join(dict.fromkeys(names)), *ratios))
    header = (f"speed of {ours}", "to", *STATISTICS)
    return markdown_table(header, rows, num_text_columns=2)


def decode_speed(measured: Measured, engine: str, method: str, of: Of) -> float:
    """Tokens/s over all prompts, without the first of each answer, which the prompt's call makes."""
    by_prompt = measured.answers[engine, method]
    tokens = sum(len(repeats[0]["token_ids"]) - 1 for repeats in by_prompt.values())
    return tokens / sum(of([one["decode_s"] for one in repeats]) for repeats in by_prompt.values())


def _best_draft(measured: Measured, engine: str, of: Of) -> tuple[str, float] | None:
    speeds = {
        method: decode_speed(measured, name, method, of)
        for name, method in measured.answers
        if name == engine and method != PLAIN
    }
    return max(speeds.items(), key=lambda item: item[1]) if speeds else None
