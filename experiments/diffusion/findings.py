"""What was found, in sentences with this run's figures: the top of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.diffusion.tables import Found, alarms_of, fastest, speed
from experiments.diffusion.two_sample import ALARM_RATE
from experiments.kit.markdown import bullets


def findings(parts: Mapping[str, Found]) -> str:
    """A sentence a line; parts that were not measured are left out."""
    measured = {part: found for part, found in parts.items() if found.subjects}
    if not measured:
        return "- Nothing was measured."
    lines = []
    for part, found in measured.items():
        frozen = [speed(record) for name in found.subjects if (record := found.at(name, "frozen"))]
        lines.append(calls_line(part, frozen, [_most(found, name) for name in found.subjects]))
    alarms = {part: alarms_of(found) for part, found in measured.items()}
    lines.append(tests_line({part: (len(found), num) for part, (found, num) in alarms.items()}))
    ratios = {name: fastest(found, name)[1] for found in measured.values() for name in found.subjects}
    lines.append(seconds_line(ratios))
    return bullets(lines)


def calls_line(part: str, frozen: Sequence[float], best: Sequence[float]) -> str:
    """Times fewer sequential calls of a part's models: with `frozen`, and with the best setting of each."""
    return (
        f"{part.capitalize()}: `frozen` needs {_range(frozen)} times fewer sequential calls than plain "
        f"sampling, the best setting {_range(best)} times fewer."
    )


def tests_line(alarms: Mapping[str, tuple[int, int]]) -> str:
    """alarms: part -> how many of its settings the tests separate from plain sampling, and of how many."""
    named = [f"{count} of {num} ({part})" for part, (count, num) in alarms.items()]
    return (
        f"The tests separate {_listed(named)} settings from plain sampling, at a false-alarm rate of "
        f"{ALARM_RATE:.0%} for each part."
    )


def seconds_line(ratios: Mapping[str, float]) -> str:
    """ratios: model -> plain sampling's time over that of its fastest setting."""
    named = [f"{ratio:.2f} ({name})" for name, ratio in ratios.items()]
    return (
        f"In seconds, the fastest setting of each model is {_listed(named)} times as fast as plain sampling."
    )


def _most(found: Found, subject: str) -> float:
    return max(map(speed, found.results.of("setting", subject=subject, **found.sweep.base.record)))


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
