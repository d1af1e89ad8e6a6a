"""REPORT.md and its figures from results.jsonl and nothing else; what is said besides is in the templates.

    python -m experiments.diffusion.report --scale full --to experiments/diffusion

Each part has a template and a function that fills it; a part that was not measured says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import Template

from experiments.diffusion.policy_report import policy_section
from experiments.diffusion.scales import SCALES, WORK, Scale
from experiments.diffusion.sections import Fields, images_section, mixtures_section
from experiments.kit.markdown import runs_table
from experiments.kit.reports import is_newer, report_command
from experiments.kit.results import RESULTS, Results

REPORT = "REPORT.md"
HERE = Path(__file__).parent
SECTIONS: dict[str, Callable[[Results, Path, Scale], Fields | None]] = {
    "mixtures": mixtures_section,
    "images": images_section,
    "policy": policy_section,
}
"""Part -> the fields of PART.template.md, or None where nothing was measured; figures go into the folder."""


def main() -> None:
    report_command(__doc__, WORK, SCALES, lambda folder, to, scale: write_report(folder, to, SCALES[scale]))


def write_report(folder: Path, to: Path, scale: Scale) -> None:
    """The report of folder/results.jsonl, unless there is one that is newer."""
    path, source = to / REPORT, folder / RESULTS
    templates = [HERE / "REPORT.template.md", *(HERE / f"{part}.template.md" for part in SECTIONS)]
    if is_newer(path, source, templates, run="python -m experiments.diffusion.run"):
        return
    results = Results(source)
    to.mkdir(parents=True, exist_ok=True)
    parts = {part: _section(part, results, to, scale) for part in SECTIONS}
    path.write_text(_filled("REPORT", {"runs": runs_table(results), **parts}), encoding="utf-8")
    print(f"{path}", flush=True)


def _section(part: str, results: Results, to: Path, scale: Scale) -> str:
    fields = SECTIONS[part](results, to, scale)
    if fields is None:
        return f"## {part.capitalize()}\n\nNot measured in this run (`--part {part}`)."
    return _filled(part, fields).rstrip()


def _filled(template: str, fields: Fields) -> str:
    text = (HERE / f"{template}.template.md").read_text(encoding="utf-8")
    return Template(text).substitute(fields)


if __name__ == "__main__":
    main()
