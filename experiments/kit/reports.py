"""REPORT.md from results.jsonl and templates, and the command that writes it anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TypeVar

from experiments.kit.command import parser_of, scale_of
from experiments.kit.results import RESULTS, Results
from outpace.core.errors import OutpaceError

REPORT = "REPORT.md"
Fields = Mapping[str, object]
Scale = TypeVar("Scale")


def report_command(
    about: str | None, scales: Mapping[str, Scale], work: Path, write: Callable[[Path, Path, Scale], None]
) -> None:
    """A command line: write(folder of the results, folder of the report, scale)."""
    parser = parser_of(about, scales, work, scale="full")
    parser.add_argument("--to", type=Path, help="the folder of the report; that of the results if not given")
    args = parser.parse_args()
    folder = args.work / args.scale
    try:
        write(folder, args.to or folder, scale_of(scales, args.scale))
    except (OutpaceError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def write_report(
    folder: Path, to: Path, templates: Sequence[Path], text: Callable[[Results], str], *, run: str
) -> None:
    """`text` of folder/results.jsonl, unless there is a report that is newer than all that it is made of.

    run  the module whose command makes the results.
    """
    path, source = to / REPORT, folder / RESULTS
    if not source.exists():
        raise OutpaceError(f"{source} is missing, run `python -m {run}` first")
    newest = max(one.stat().st_mtime for one in (source, *templates))
    if path.exists() and path.stat().st_mtime >= newest:
        return
    to.mkdir(parents=True, exist_ok=True)
    path.write_text(text(Results(source)), encoding="utf-8")
    print(f"{path}", flush=True)


def filled(template: Path, fields: Fields) -> str:
    """A template with its fields."""
    return Template(template.read_text(encoding="utf-8")).substitute(fields)
