"""Heads of every kind at one budget: from a model to a report.

    python -m experiments.heads.run --scale hours --prompts PROMPTS.jsonl --threads 2

Own text, trainings, evaluation, report: a step that is done is left alone, one that was interrupted goes on.
"""

from __future__ import annotations

from pathlib import Path

from experiments.heads.evaluate import evaluate
from experiments.heads.report import report
from experiments.heads.scales import SCALES, Scale
from experiments.heads.trainings import WORK, train_all
from experiments.kit.command import Command, Job
from outpace.bench.prompts import BUILTIN, read_prompts
from outpace.files.catalog import DEFAULT


def main(arguments: list[str] | None = None) -> None:
    command = Command(__doc__, "experiments.heads.run", SCALES, WORK)
    command.add("--model", type=Path, default=Path(DEFAULT), help="a model file or folder, or a name")
    command.add("--prompts", type=Path, default=BUILTIN, help="what to be judged by, as of `outpace bench`")
    command.run(_steps, arguments)


def _steps(job: Job[Scale]) -> None:
    asked = read_prompts(job.options.prompts, limit=job.scale.judged)
    model = str(job.options.model)
    train_all(model, job.folder, job.scale, seed=job.seed)
    evaluate(model, job.folder, asked, job.scale, command=job.command)
    report(job.folder, job.folder, job.scale)


if __name__ == "__main__":
    main()
