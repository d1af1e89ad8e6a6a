"""Speculative sampling of diffusion models (De Bortoli et al. 2025, arXiv:2501.05370): from data to a report.

    python -m experiments.diffusion.run --scale hours --threads 2
    python -m experiments.diffusion.run --scale hours --threads 2 --part mixtures

Parts: mixtures of Gaussians with the known score, images by models that are trained here, a policy that
pushes a block. A step that is done is left alone, one that was interrupted goes on. How many minutes each
takes is in scales.py. All that is made lies in --work, the results and the report in its folder of the scale;
pictures come from Debian packages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.diffusion.digits import DIGITS_FILE, prepare_digits
from experiments.diffusion.images import measure_images, train_images
from experiments.diffusion.mixtures import measure_mixtures
from experiments.diffusion.policy_evaluate import measure_policy
from experiments.diffusion.policy_task import PushT
from experiments.diffusion.policy_train import train_policy
from experiments.diffusion.report import report
from experiments.diffusion.scales import DIGITS, PATCHES, SCALES, WORK, Scale
from experiments.kit.command import Command, Job
from experiments.kit.results import RESULTS, Results, run_record
from experiments.superres import pictures
from experiments.superres.prepare import APT, prepare
from outpace.progress import progress_bar


@dataclass(frozen=True, slots=True)
class Measured:
    """A job, and where its results go. patches: a file of these, which are prepared where it is None."""

    job: Job[Scale]
    results: Results
    patches: Path | None


def run_mixtures(run: Measured) -> None:
    """Part (a)."""
    with progress_bar() as progress:
        measure_mixtures(run.results, run.job.scale.mixtures, progress)


def run_images(run: Measured) -> None:
    """Part (b): prepare, train, measure."""
    job, images = run.job, run.job.scale.images
    num_tests = sum(len(of.sweep.settings()) for of in images.values())
    data = {name: _data(run, name) for name in images}
    for name, of in images.items():
        train_images(data[name], job.folder, name, of, device=job.device, seed=job.seed)
    with progress_bar() as progress:
        for name, of in images.items():
            measure_images(data[name], job.folder, name, run.results, of, num_tests, progress)


def run_policy(run: Measured) -> None:
    """Part (c): demonstrate, train, measure, play."""
    job, scale = run.job, run.job.scale.policy
    train_policy(job.folder, scale, device=job.device, seed=job.seed)
    with progress_bar() as progress:
        measure_policy(job.folder, run.results, scale, progress)


PARTS: dict[str, Callable[[Measured], None]] = {
    "mixtures": run_mixtures,
    "images": run_images,
    "policy": run_policy,
}


def main(arguments: list[str] | None = None) -> None:
    command = Command(__doc__, "experiments.diffusion.run", SCALES, WORK)
    command.add("--part", choices=PARTS, help="this one alone")
    command.add("--patches", type=Path, help="use this file of patches and prepare none")
    command.run(_steps, arguments)


def _steps(job: Job[Scale]) -> None:
    parts = (job.options.part,) if job.options.part else tuple(PARTS)
    if "policy" in parts:
        PushT().close()  # what it needs is missed now, or not at all
    job.folder.mkdir(parents=True, exist_ok=True)
    results = Results(job.folder / RESULTS, run_record(job.command, "cpu"))  # trainings alone use the device
    for part in parts:
        PARTS[part](Measured(job, results, job.options.patches))
    report(job.folder, job.folder, job.scale)


def _data(run: Measured, name: str) -> Path:
    """The file of a model's pictures, which is made if it is missing."""
    if name == DIGITS:
        path = run.job.work / DIGITS_FILE
        prepare_digits(pictures.WORK / APT, path)
        return path
    assert name == PATCHES
    path = run.patches or pictures.WORK / pictures.PATCHES
    if not path.exists():
        prepare(pictures.WORK, seed=0)
    return path


if __name__ == "__main__":
    main()
