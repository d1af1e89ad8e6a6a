"""REPORT.md and its figures from results.jsonl and nothing else; what is said besides is in the templates.

    python -m experiments.diffusion.report --scale full --to experiments/diffusion

Each part has a template and a function that fills it; a part that was not measured says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.diffusion.policy_report import policy_section
from experiments.diffusion.scales import SCALES, WORK, Scale
from experiments.diffusion.sections import Fields, images_section, mixtures_section
from experiments.kit.markdown import runs_table
from experiments.kit.reports import filled, report_command, write_report
from experiments.kit.results import Results

HERE = Path(__file__).parent
SECTIONS: dict[str, Callable[[Results, Path, Scale], Fields | None]] = {
    "mixtures": mixtures_section,
    "images": images_section,
    "policy": policy_section,
}
"""Part -> the fields of PART.template.md, or None where nothing was measured; figures go into the folder."""


def main() -> None:
    report_command(__doc__, SCALES, WORK, report)


def report(folder: Path, to: Path, scale: Scale) -> None:
    """The report of folder/results.jsonl, unless there is one that is newer."""

    def text(results: Results) -> str:
        parts = {part: _section(part, results, to, scale) for part in SECTIONS}
        return filled(_template("REPORT"), {"runs": runs_table(results), **parts})

    templates = [_template(name) for name in ("REPORT", *SECTIONS)]
    write_report(folder, to, templates, text, run="experiments.diffusion.run")


def _section(part: str, results: Results, to: Path, scale: Scale) -> str:
    fields = SECTIONS[part](results, to, scale)
    if fields is None:
        return f"## {part.capitalize()}\n\nNot measured in this run (`--part {part}`)."
    return filled(_template(part), fields).rstrip()


def _template(part: str) -> Path:
    return HERE / f"{part}.template.md"


if __name__ == "__main__":
    main()
