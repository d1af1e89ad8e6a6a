"""The tables that parts have in common: calls by subject, draft and axis; tests; seconds and prices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from experiments.diffusion.settings import Chain, Setting, Sweep
from experiments.diffusion.two_sample import ALARM_RATE, holm
from experiments.kit.markdown import spread, table
from experiments.kit.results import Record, Results

PRICED_STATES = (2, 4, 8, 16)


def speed(record: Record) -> float:
    """How many times fewer sequential calls than plain sampling, those at the windows' roots counted."""
    return record["plain_calls"] / record["sequential_calls"]


def both_speeds(record: Record) -> str:
    """That, and in brackets the same for calls that verify a window alone, where it is another number."""
    text, other = f"{speed(record):.2f}", f"{record['plain_calls'] / record['verification_calls']:.2f}"
    return text if text == other else f"{text} ({other})"


def evaluations(record: Record) -> float:
    """States evaluated for each step."""
    return record["evaluations"] / record["plain_calls"]


class Found:
    """The settings of a part that were measured. subjects: those that are complete; times come last."""

    def __init__(self, results: Results, sweep: Sweep, subjects: Sequence[str]) -> None:
        self.results, self.sweep = results, sweep
        self.subjects = [
            name for name in subjects if all(ratios_of(results, name, one) for one in _timed(sweep))
        ]

    def setting(self, subject: str, setting: Setting) -> Record | None:
        """Its record."""
        found = self.results.of("setting", subject=subject, **setting.record)
        return found[0] if found else None

    def at(self, subject: str, draft: str, window: str | None = None, **chain: Any) -> Record | None:
        """The record that differs from the base in no more than this."""
        where = replace(self.sweep.base, **chain)
        return self.setting(subject, Setting(where, draft, window or self.sweep.window))

    def cell(self, show: Callable[[Record], str], *where: str, **chain: Any) -> str:
        """Of a table: see `at`."""
        record = self.at(*where, **chain)
        return "-" if record is None else show(record)


def calls_table(found: Found) -> str:
    """A line for each subject and number of steps: frozen, and the best draft and window that were tried."""
    lines = []
    for subject in found.subjects:
        for steps in sorted({found.sweep.base.steps, *found.sweep.steps}):
            where = replace(found.sweep.base, steps=steps)
            tried = found.results.of("setting", subject=subject, **where.record)
            best = max(tried, key=speed)
            lines.append(
                [
                    subject, str(steps), found.cell(both_speeds, subject, "frozen", steps=steps),
                    found.cell(both_speeds, subject, "stale", steps=steps),
                    both_speeds(best), f"`{best['draft']}`, {best['window']}", f"{evaluations(best):.2f}",
                ]
            )  # fmt: skip
    head = ["", "steps", "`frozen`", "`stale`", "best", "draft, window of the best", "evaluations a step"]
    return table(head, lines)


def drafts_table(found: Found) -> str:
    """A line for each draft at the base: calls, and evaluations a step behind a slash."""
    lines = [
        [f"`{draft}`", *(found.cell(_calls_and_evaluations, subject, draft) for subject in found.subjects)]
        for draft in found.sweep.drafts
    ]
    return table(["draft", *found.subjects], lines)


def axis_table(found: Found, axis: str, values: Sequence[Any]) -> str:
    """A line for each value of "window" or of a field of the chain, and each leading draft."""
    lines = [
        [
            str(value),
            f"`{draft}`",
            *(
                found.cell(_calls_and_evaluations, subject, draft, **{axis: value})
                for subject in found.subjects
            ),
        ]
        for value in values
        for draft in found.sweep.leading
    ]
    return table([axis, "draft", *found.subjects], lines)


def alarms_of(found: Found) -> tuple[list[Record], int]:
    """The settings that a test tells from plain sampling, and how many were tested (Holm)."""
    settings = _settings(found)
    adjusted = holm([record["p"] for record in settings])
    return [one for one, p in zip(settings, adjusted, strict=True) if p < ALARM_RATE], len(settings)


def tests_text(found: Found) -> str:
    """How many settings a test tells from plain sampling, and what it tells of others."""
    alarms, num = alarms_of(found)
    chances = [record["p"] for record in _settings(found)]
    text = f"Of {num} settings, {len(alarms)} are told from plain sampling at a false-alarm rate of "
    text += f"{ALARM_RATE:.0%} for the whole table (Holm); the smallest p is "
    text += f"{min(chances):.2g}, adjusted for their number {min(holm(chances)):.2g}."
    for record in alarms:
        text += f" Told apart: {record['subject']}, {_words(record)}."
    return text


def controls_table(found: Found) -> str:
    """The test's own test: plain against plain, and samples of the cheaper models."""
    lines = []
    for subject in found.subjects:
        (plain,) = found.results.of("plain", subject=subject, **found.sweep.base.record)
        controls = found.results.of("control", subject=subject)
        lines.append([subject, f"{plain['p']:.2g}", *(f"{record['p']:.2g}" for record in controls)])
    names = [record["draft"] for record in found.results.of("control", subject=found.subjects[0])]
    return table(["p", "plain, another seed", *(f"not plain: `{name}` alone" for name in names)], lines)


def prices_table(found: Found) -> str:
    """Seconds of a call with one state, and how many times longer a call with more takes."""
    lines = []
    for subject in found.subjects:
        for record in found.results.of("price", subject=subject):
            times = _times(record)
            name = f"{subject}, `{record['model']}`" if record["model"] else subject
            lines.append(
                [name, f"{1e3 * times[1]:.2f}", *(f"{times[n] / times[1]:.2f}" for n in times if n > 1)]
            )
    sizes = [n for n in _times(found.results.of("price", subject=found.subjects[0])[0]) if n > 1]
    return table(["", "ms, 1 state", *(f"{n} states" for n in sizes)], lines)


def times_table(found: Found) -> str:
    """Speed of single samples at the base, against plain sampling a moment before."""
    lines = []
    for setting in _timed(found.sweep):
        ratios = [spread(ratios_of(found.results, subject, setting)) for subject in found.subjects]
        lines.append([f"`{setting.draft}`", setting.window, *ratios])
    return table(["draft", "window", *found.subjects], lines)


def times_text(found: Found) -> str:
    """Whether drafts pay in seconds: whether three of four samples are faster than plain ones."""
    sentences = []
    for subject in found.subjects:
        ratios = {one: ratios_of(found.results, subject, one) for one in _timed(found.sweep)}
        best, largest = fastest(found, subject)
        faster = sum(sorted(some)[len(some) // 4] > 1 for some in ratios.values())
        (record,) = found.results.of("price", subject=subject, model="")
        times = _times(record)
        verdict = "it pays" if faster else "it does not pay"
        longer = f"{times[8] / times[1]:.1f} times as long as with 1"
        share = f"{faster} of {len(ratios)} settings are"
        sentences.append(
            f"- {subject}: {verdict}. A call with 8 states takes {longer}. {share} faster than "
            f"plain sampling for three of four samples; the largest median is that of "
            f"`{best.draft}` with window {best.window}, {largest:.2f} times plain sampling's speed."
        )
    return "\n".join(sentences)


def fastest(found: Found, subject: str) -> tuple[Setting, float]:
    """The setting with the largest median of plain sampling's seconds over its own, and that median."""
    medians = {one: median(ratios_of(found.results, subject, one)) for one in _timed(found.sweep)}
    best = max(medians, key=medians.__getitem__)
    return best, medians[best]


def acceptance_of(found: Found, subject: str, window: str) -> dict[str, list[float]]:
    """Draft -> share accepted by position, at the base."""
    curves = {}
    for draft in found.sweep.drafts:
        record = found.at(subject, draft, window)
        if record is not None:
            pairs = zip(record["accepted"], record["tested"], strict=True)
            curves[draft] = [accepted / tested for accepted, tested in pairs if tested]
    return curves


def ratios_of(results: Results, subject: str, setting: Setting) -> list[float]:
    """Plain sampling's seconds over a setting's, of single samples."""
    records = results.of("time", subject=subject, **setting.record)
    return [record["plain_wall_s"] / record["wall_s"] for record in records]


def _settings(found: Found) -> list[Record]:
    return [record for name in found.subjects for record in found.results.of("setting", subject=name)]


def _timed(sweep: Sweep) -> list[Setting]:
    return [one for one in sweep.settings() if one.chain == sweep.base]


def _times(price: Record) -> dict[int, float]:
    return dict(zip(price["states"], price["seconds"], strict=True))


def _calls_and_evaluations(record: Record) -> str:
    return f"{speed(record):.2f} / {evaluations(record):.1f}"


def _words(record: Record) -> str:
    fields = (*asdict(Chain("", 0)), "draft", "window")
    return ", ".join(f"{name} {record[name]}" for name in fields)
