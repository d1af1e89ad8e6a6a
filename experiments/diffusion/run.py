"""Speculative sampling of diffusion models (De Bortoli et al. 2025, arXiv:2501.05370): from data to a report.

    python -m experiments.diffusion.run --scale session --threads 2
    python -m experiments.diffusion.run --scale session --threads 2 --part mixtures

Parts: mixtures of Gaussians with the known score, images by models that are trained here, a policy that
pushes a block. A step that is done is left alone, one that was interrupted goes on. How many minutes each
takes is in scales.py. All that is made lies in --work, the results and the report in its folder of the scale;
pictures come from Debian packages.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.diffusion.digits import DIGITS_FILE, prepare_digits
from experiments.diffusion.images import measure_images, train_images
from experiments.diffusion.mixtures import measure_mixtures
from experiments.diffusion.policy_evaluate import measure_policy
from experiments.diffusion.policy_task import PushT
from experiments.diffusion.policy_train import train_policy
from experiments.diffusion.report import write_report
from experiments.diffusion.scales import DIGITS, PATCHES, SCALES, WORK, Scale
from experiments.kit.results import RESULTS, Results, check_device, run_record
from experiments.superres import pictures
from experiments.superres.prepare import APT, prepare
from outpace.core.errors import OutpaceError
from outpace.progress import progress_bar
from outpace.train.allocator import keep_freed_memory


@dataclass(frozen=True, slots=True)
class Job:
    """A run of parts: where its files are, who measures, and how large it is.

    patches  a file of patches, which are prepared where it is None.
    """

    work: Path
    folder: Path
    scale: Scale
    results: Results
    device: str
    seed: int
    patches: Path | None


def run_mixtures(job: Job) -> None:
    """Part (a)."""
    with progress_bar() as progress:
        measure_mixtures(job.results, job.scale.mixtures, progress)


def run_images(job: Job) -> None:
    """Part (b): prepare, train, measure."""
    num_tests = sum(len(of.sweep.settings()) for of in job.scale.images.values())
    data = {name: _data(job, name) for name in job.scale.images}
    for name, of in job.scale.images.items():
        train_images(data[name], job.folder, name, of, device=job.device, seed=job.seed)
    with progress_bar() as progress:
        for name, of in job.scale.images.items():
            measure_images(data[name], job.folder, name, job.results, of, num_tests, progress)


def run_policy(job: Job) -> None:
    """Part (c): demonstrate, train, measure, play."""
    train_policy(job.folder, job.scale.policy, device=job.device, seed=job.seed)
    with progress_bar() as progress:
        measure_policy(job.folder, job.results, job.scale.policy, progress)


PARTS: dict[str, Callable[[Job], None]] = {
    "mixtures": run_mixtures,
    "images": run_images,
    "policy": run_policy,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", default="session", choices=SCALES, help="how large; see scales.py")
    parser.add_argument("--part", choices=PARTS, help="this one alone")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder for all that is made")
    parser.add_argument("--patches", type=Path, help="use this file of patches and prepare none")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    parser.add_argument("--device", default="cpu", help="of torch, for trainings")
    parser.add_argument("--seed", type=int, default=0, help="of trainings")
    args = parser.parse_args(arguments)
    keep_freed_memory()
    options = {"scale": args.scale, "part": args.part, "threads": args.threads, "seed": args.seed}
    options |= {"device": args.device if args.device != "cpu" else None}
    command = "python -m experiments.diffusion.run"
    command += "".join(f" --{name} {value}" for name, value in options.items() if value)
    folder = args.work / args.scale
    try:
        check_device(args.device)
        if args.threads is not None:
            if args.threads < 1:
                raise OutpaceError(f"--threads is {args.threads}, accepted are whole numbers >= 1")
            torch.set_num_threads(args.threads)
        parts = (args.part,) if args.part else tuple(PARTS)
        if "policy" in parts:
            PushT().close()  # what it needs is missed now, or not at all
        folder.mkdir(parents=True, exist_ok=True)
        results = Results(folder / RESULTS, run_record(command, "cpu"))  # trainings alone use the device
        scale = SCALES[args.scale]
        job = Job(args.work, folder, scale, results, args.device, args.seed, args.patches)
        for part in parts:
            PARTS[part](job)
        write_report(folder, folder, scale)
    except (OutpaceError, OSError) as error:
        raise SystemExit("error: " + " ".join(str(error).split())) from error


def _data(job: Job, name: str) -> Path:
    """The file of a model's pictures, which is made if it is missing."""
    if name == DIGITS:
        path = job.work / DIGITS_FILE
        prepare_digits(pictures.WORK / APT, path)
        return path
    assert name == PATCHES
    path = job.patches or pictures.WORK / pictures.PATCHES
    if not path.exists():
        prepare(pictures.WORK, seed=0)
    return path


if __name__ == "__main__":
    main()
