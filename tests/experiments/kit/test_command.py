"""The command of an experiment and that of its report: scales by name, errors in one line, records."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from experiments.kit.command import Command, Job
from experiments.kit.reports import filled, report_command, write_report
from experiments.kit.results import Results
from outpace.core.errors import OutpaceError

SCALES = {"smoke": 1, "hours": 2, "full": 3}


def run(*arguments: str, steps: Any = None) -> list[Job[int]]:
    jobs: list[Job[int]] = []
    command = Command("About.", "experiments.some.run", SCALES, Path("work"))
    command.add("--part")
    command.add("--data", type=Path)
    command.run(steps or jobs.append, list(arguments))
    return jobs


def test_a_job_is_what_was_asked_for(tmp_path: Path) -> None:
    (job,) = run("--work", str(tmp_path), "--data", "here", "--part", "b", "--seed", "4", "--threads", "1")
    assert (job.work, job.folder, job.scale) == (tmp_path, tmp_path / "hours", 2)
    assert (job.device, job.seed, job.options.data, job.options.part) == ("cpu", 4, Path("here"), "b")
    assert not any(tmp_path.iterdir())
    # What was not said and paths are no part of the record.
    said = set(job.command.split(" --"))
    assert said == {"python -m experiments.some.run", "scale hours", "part b", "seed 4", "threads 1"}


@pytest.mark.parametrize("name", ["session", "Full", ""])
def test_other_scales_get_a_line_that_names_those_there_are(name: str, tmp_path: Path) -> None:
    message = f"error: there is no scale '{name}', accepted are smoke, hours, full"
    with pytest.raises(SystemExit, match=f"^{message}$"):
        run("--work", str(tmp_path), "--scale", name)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads is 0, accepted are whole numbers >= 1"),
        (["--device", "cuda:77"], "the device 'cuda:77' cannot be used: .*; accepted is cpu"),
    ],
)
def test_what_cannot_be_used_gets_a_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"^error: {message}$"):
        run("--work", str(tmp_path), *arguments)


def test_an_error_of_a_step_is_one_line(tmp_path: Path) -> None:
    def fails(job: Job[int]) -> None:
        raise OutpaceError("this\n  went wrong")

    with pytest.raises(SystemExit, match=r"^error: this went wrong$"):
        run("--work", str(tmp_path), steps=fails)


def test_a_report_is_written_anew_when_it_is_older(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template, to = tmp_path / "template.md", tmp_path / "to"

    def write() -> str:
        text = lambda results: filled(template, {"num": len(results.records)})  # noqa: E731
        write_report(tmp_path, to, [template], text, run="experiments.some.run")
        return (to / "REPORT.md").read_text()

    template.write_text("$num")
    with pytest.raises(OutpaceError, match=r"results\.jsonl is missing, run `python -m experiments\.some"):
        write()
    Results(tmp_path / "results.jsonl").add({"kind": "a"})
    assert write() == "1" and capsys.readouterr().out == f"{to / 'REPORT.md'}\n"
    (to / "REPORT.md").write_text("kept")
    assert write() == "kept" and capsys.readouterr().out == ""
    template.write_text("now $num")
    os.utime(template, ns=(2**62, 2**62))
    assert write() == "now 1"


def test_the_reports_command_takes_the_same_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, Path, int]] = []

    def command(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["report", "--work", str(tmp_path), *arguments])
        report_command("About.", SCALES, Path("work"), lambda *all_of_it: seen.append(all_of_it))

    command()
    command("--scale", "smoke", "--to", "there")
    assert seen == [
        (tmp_path / "full", tmp_path / "full", 3),
        (tmp_path / "smoke", Path("there"), 1),
    ]
    with pytest.raises(SystemExit, match=r"^error: there is no scale 'session', accepted are smoke"):
        command("--scale", "session")
