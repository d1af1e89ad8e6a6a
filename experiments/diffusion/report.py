"""REPORT.md and its figures from results.jsonl and nothing else; what is said besides is in the templates.

    python -m experiments.diffusion.report --scale full --to experiments/diffusion

Each part has a template and a function that fills it; a part that was not measured says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.diffusion.findings import findings
from experiments.diffusion.policy_report import policy_found, policy_section
from experiments.diffusion.scales import SCALES, WORK, Scale
from experiments.diffusion.sections import (
    Fields,
    images_found,
    images_section,
    mixtures_found,
    mixtures_section,
)
from experiments.diffusion.tables import Found
from experiments.kit.markdown import runs_table
from experiments.kit.reports import filled, report_command, write_report
from experiments.kit.results import Results

HERE = Path(__file__).parent
PARTS: dict[str, tuple[Callable[[Results, Scale], Found], Callable[[Found, Path, Scale], Fields]]] = {
    "mixtures": (mixtures_found, mixtures_section),
    "images": (images_found, images_section),
    "policy": (policy_found, policy_section),
}
"""Part -> what was measured of it, and the fields of PART.template.md; figures go into the folder."""


def main() -> None:
    report_command(__doc__, SCALES, WORK, report)


def report(folder: Path, to: Path, scale: Scale) -> None:
    """The report of folder/results.jsonl, unless there is one that is newer."""

    def text(results: Results) -> str:
        found = {part: measured(results, scale) for part, (measured, _) in PARTS.items()}
        parts = {part: _section(part, found[part], to, scale) for part in PARTS}
        fields = {"findings": findings(found), "runs": runs_table(results), **parts}
        return filled(_template("REPORT"), fields)

    templates = [_template(name) for name in ("REPORT", *PARTS)]
    write_report(folder, to, templates, text, run="experiments.diffusion.run")


def _section(part: str, found: Found, to: Path, scale: Scale) -> str:
    if not found.subjects:
        return f"## {part.capitalize()}\n\nNot measured in this run (`--part {part}`)."
    _, fields = PARTS[part]
    return filled(_template(part), fields(found, to, scale)).rstrip()


def _template(part: str) -> Path:
    return HERE / f"{part}.template.md"


if __name__ == "__main__":
    main()
