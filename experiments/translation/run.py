"""Translation by blockwise decoding (Stern et al. 2018, arXiv:1811.03115): from packages to a report.

    python -m experiments.translation.run --scale session --threads 2

Prepare, base and teacher, distil, base on distilled targets, heads, evaluate, report: a step that is done is
left alone, one that was interrupted goes on. The corpus lies in --work, all else in its folder of the scale.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers

from experiments.kit.results import check_device
from experiments.translation.base import DISTILLED, train_base, train_bases
from experiments.translation.distil import distil_corpus, distilled_segments
from experiments.translation.evaluate import evaluate
from experiments.translation.heads import train_heads
from experiments.translation.prepare import WORK, prepare
from experiments.translation.report import write_report
from experiments.translation.scales import SCALES
from outpace.core.errors import OutpaceError
from outpace.train.allocator import keep_freed_memory


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", default="session", choices=SCALES, help="how large; see scales.py")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder for all that is made")
    parser.add_argument("--corpus", type=Path, help="a folder with train.tsv, dev.tsv and test.tsv to use")
    parser.add_argument(
        "--threads", type=int, help="of torch and CTranslate2; torch's own choice if not given"
    )
    parser.add_argument("--device", default="cpu", help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    command = f"python -m experiments.translation.run --scale {args.scale} --device {args.device}"
    if args.threads:
        command += f" --threads {args.threads}"
    transformers.utils.logging.disable_progress_bar()
    scale, folder = SCALES[args.scale], args.work / args.scale
    where: dict[str, Any] = {"seed": args.seed, "device": args.device}
    try:
        check_device(args.device)
        if args.corpus is None and not (args.work / "sources.json").exists():
            prepare(args.work, seed=args.seed)
        corpus = args.corpus or args.work
        train_bases(corpus, folder, scale, **where)
        distil_corpus(corpus, folder, scale, threads=torch.get_num_threads())
        distilled = distilled_segments(folder, scale)
        train_base(
            corpus, folder, scale, DISTILLED, minutes=scale.distilled_minutes, distilled=distilled, **where
        )
        train_heads(corpus, folder, scale, **where)
        evaluate(corpus, folder, scale, command=command, device=args.device)
        write_report(folder, folder)
    except (OutpaceError, OSError) as error:
        raise SystemExit("error: " + " ".join(str(error).split())) from error


if __name__ == "__main__":
    main()
