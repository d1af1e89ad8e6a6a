"""What the report says of mixtures and of images: the fields of their templates, and their figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.diffusion import tables
from experiments.diffusion.images import decoded
from experiments.diffusion.mixtures import subject_name
from experiments.diffusion.scales import Scale
from experiments.diffusion.settings import Sweep
from experiments.diffusion.tables import Found
from experiments.kit.grids import draw_grid
from experiments.kit.markdown import table
from experiments.kit.plots import plot_acceptance
from experiments.kit.results import Record, Results

Fields = dict[str, str]


def mixtures_found(results: Results, scale: Scale) -> Found:
    """What was measured of mixtures."""
    return Found(results, scale.mixtures.sweep, [subject_name(dim) for dim in scale.mixtures.dims])


def images_found(results: Results, scale: Scale) -> Found:
    """What was measured of images. The parts have one sweep each, and all of them the same."""
    return Found(results, next(iter(scale.images.values())).sweep, list(scale.images))


def mixtures_section(found: Found, to: Path, scale: Scale) -> Fields:
    """Fields of mixtures.template.md."""
    plot_acceptance(to / "mixtures.png", _panels(found))
    base, sweep = scale.mixtures.sweep.base, scale.mixtures.sweep
    return {
        **common_fields(found),
        "processes": tables.axis_table(found, "process", (base.process, *sweep.processes)),
    }


def images_section(found: Found, to: Path, scale: Scale) -> Fields:
    """Fields of images.template.md."""
    plot_acceptance(to / "images.png", _panels(found))
    pictures = []
    for subject in found.subjects:
        rows = {
            record["draft"] or "plain": record["png"]
            for record in found.results.of("pictures", subject=subject)
        }
        columns = {label: decoded(png) for label, png in rows.items()}
        lines = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
        draw_grid(to / f"{subject}.png", lines)
        pictures.append(f"![{subject}, plain and drafted]({subject}.png)")
    return {
        **common_fields(found),
        "models": _models_table(found),
        "quality": _quality_table(found),
        "told_apart": _told_apart(found),
        "pictures": "\n\n".join(pictures),
    }


def common_fields(found: Found) -> Fields:
    """Fields that both have."""
    sweep = found.sweep
    return {
        "base": _base(sweep),
        "calls": tables.calls_table(found),
        "drafts": tables.drafts_table(found),
        "windows": tables.axis_table(found, "window", (sweep.window, *sweep.windows)),
        "churns": tables.axis_table(found, "churn", sorted({sweep.base.churn, *sweep.churns})),
        "tests": tables.tests_text(found),
        "controls": tables.controls_table(found),
        "prices": tables.prices_table(found),
        "times": tables.times_table(found),
        "pays": tables.times_text(found),
    }


def _base(sweep: Sweep) -> str:
    base = sweep.base
    return f"{base.process}, {base.steps} steps, churn {base.churn:g}, window {sweep.window}"


def _panels(found: Found) -> dict[str, dict[str, list[float]]]:
    return {name: tables.acceptance_of(found, name, found.sweep.window) for name in found.subjects}


def _models_table(found: Found) -> str:
    lines = [
        [name, str(of["widths"]), str(of["steps"]), f"{of['minutes']:.1f}"]
        for subject in found.subjects
        for model in found.results.of("model", model=subject)
        for name, of in model["trainings"].items()
    ]
    return table(["training", "channels", "steps", "minutes"], lines)


def _quality_table(found: Found) -> str:
    """Fréchet distances at the base, with intervals."""
    lines = []
    for subject in found.subjects:
        (floor,) = found.results.of("floor", subject=subject)
        lines.append([subject, "training images", _interval(floor["frechet"]), "", "", ""])
        rows: list[tuple[str, Sequence[Record]]] = [
            (
                "plain, against another seed",
                found.results.of("plain", subject=subject, **found.sweep.base.record),
            )
        ]
        rows += [
            (f"`{draft}`", [record] if (record := found.at(subject, draft)) else [])
            for draft in found.sweep.drafts
        ]
        rows += [
            (f"not plain: `{one['draft']}` alone", [one])
            for one in found.results.of("control", subject=subject)
        ]
        for name, records in rows:
            lines += [
                [
                    subject, name, _interval(record["frechet"]), _interval(record["frechet_less_plain"]),
                    _interval(record["frechet_to_plain"]), f"{record['p']:.2g}",
                ]
                for record in records
            ]  # fmt: skip
    return table(["", "samples", "to held-out images", "that, less plain's", "to plain samples", "p"], lines)


def _told_apart(found: Found) -> str:
    """Which intervals of the difference to plain samples do not hold 0, though all laws are the same."""
    records = {
        f"{subject}, `{draft}`": record
        for subject in found.subjects
        for draft in found.sweep.drafts
        if (record := found.at(subject, draft))
    }
    intervals = {name: record["frechet_less_plain"] for name, record in records.items()}
    missing = [name for name, (_, low, high) in intervals.items() if not low <= 0 <= high]
    named = f" ({'; '.join(missing)})" if missing else ""
    return f"Of the drafts' {len(intervals)} intervals, {len(missing)} without 0{named}."


def _interval(values: Sequence[float]) -> str:
    value, low, high = values
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
