"""What the commands that write reports have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from outpace.core.errors import OutpaceError


def report_command(
    about: str | None, work: Path, scales: Collection[str], write: Callable[[Path, Path, str], None]
) -> None:
    """A command line: write(folder of the results, folder of the report, name of the scale)."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=work)
    parser.add_argument("--scale", default="full", choices=scales)
    parser.add_argument("--to", type=Path, help="the folder of the report; that of the results if not given")
    args = parser.parse_args()
    folder = args.work / args.scale
    try:
        write(folder, args.to or folder, args.scale)
    except (OutpaceError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def is_newer(report: Path, results: Path, templates: Sequence[Path], *, run: str) -> bool:
    """Whether a report is newer than all that it is made of. run: the command that makes the results."""
    if not results.exists():
        raise OutpaceError(f"{results} is missing, run `{run}` first")
    newest = max(one.stat().st_mtime for one in (results, *templates))
    return report.exists() and report.stat().st_mtime >= newest
