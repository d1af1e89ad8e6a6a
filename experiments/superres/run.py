"""Super-resolution by blockwise decoding (Stern et al. 2018, arXiv:1811.03115): from packages to a report.

    python -m experiments.superres.run --scale hours --threads 2

Prepare, base, heads, evaluate, report: a step that is done is left alone, one that was interrupted goes on.
All that is made lies in --work, the results and the report in its folder of the scale.
"""

from __future__ import annotations

from pathlib import Path

from experiments.kit.command import Command, Job
from experiments.superres.base import BASE, train_base
from experiments.superres.evaluate import evaluate
from experiments.superres.heads import train_heads
from experiments.superres.pictures import PATCHES, WORK
from experiments.superres.prepare import prepare
from experiments.superres.report import report
from experiments.superres.scales import SCALES, Scale


def main(arguments: list[str] | None = None) -> None:
    command = Command(__doc__, "experiments.superres.run", SCALES, WORK)
    command.add("--patches", type=Path, help="use this file of patches and prepare none")
    command.run(_steps, arguments)


def _steps(job: Job[Scale]) -> None:
    folder, scale, patches = job.folder, job.scale, job.options.patches
    if patches is None:
        prepare(job.work, seed=job.seed)
        patches = job.work / PATCHES
    train_base(patches, folder / BASE, scale, device=job.device, seed=job.seed)
    train_heads(patches, folder, scale, device=job.device, seed=job.seed)
    evaluate(patches, folder, scale, command=job.command, device=job.device)
    report(folder, folder)


if __name__ == "__main__":
    main()
