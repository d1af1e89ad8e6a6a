"""Super-resolution by blockwise decoding (Stern et al. 2018, arXiv:1811.03115): from packages to a report.

    python -m experiments.superres.run --scale session --threads 2

Prepare, base, heads, evaluate, report: a step that is done is left alone, one that was interrupted goes on.
All that is made lies in --work, the results and the report in its folder of the scale.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from experiments.kit.results import check_device
from experiments.superres.base import BASE, train_base
from experiments.superres.evaluate import evaluate
from experiments.superres.heads import train_heads
from experiments.superres.pictures import PATCHES, WORK
from experiments.superres.prepare import prepare
from experiments.superres.report import write_report
from experiments.superres.scales import SCALES
from outpace.core.errors import OutpaceError
from outpace.train.allocator import keep_freed_memory


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", default="session", choices=SCALES, help="how large; see scales.py")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder for all that is made")
    parser.add_argument("--patches", type=Path, help="use this file of patches and prepare none")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    parser.add_argument("--device", default="cpu", help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    command = f"python -m experiments.superres.run --scale {args.scale} --device {args.device}"
    if args.threads:
        command += f" --threads {args.threads}"
    scale, folder = SCALES[args.scale], args.work / args.scale
    try:
        check_device(args.device)
        if args.patches is None:
            prepare(args.work, seed=args.seed)
        patches = args.patches or args.work / PATCHES
        train_base(patches, folder / BASE, scale, device=args.device, seed=args.seed)
        train_heads(patches, folder, scale, device=args.device, seed=args.seed)
        evaluate(patches, folder, scale, command=command, device=args.device)
        write_report(folder, folder)
    except (OutpaceError, OSError) as error:
        raise SystemExit("error: " + " ".join(str(error).split())) from error


if __name__ == "__main__":
    main()
