"""Translation by blockwise decoding (Stern et al. 2018, arXiv:1811.03115): from packages to a report.

    python -m experiments.translation.run --scale hours --threads 2

Prepare, base, own output, heads, evaluate, report: a step that is done is left alone, one that was
interrupted goes on. The corpus lies in --work, all else in its folder of the scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from experiments.kit.command import Command, Job
from experiments.translation.base import train_base
from experiments.translation.evaluate import evaluate
from experiments.translation.heads import train_heads
from experiments.translation.markov import train_markov_heads
from experiments.translation.prepare import WORK, prepare
from experiments.translation.report import report
from experiments.translation.scales import SCALES, Scale


def main(arguments: list[str] | None = None) -> None:
    command = Command(__doc__, "experiments.translation.run", SCALES, WORK)
    command.add("--corpus", type=Path, help="a folder with train.tsv, dev.tsv and test.tsv to use")
    command.run(_steps, arguments)


def _steps(job: Job[Scale]) -> None:
    transformers.utils.logging.disable_progress_bar()
    folder, scale, corpus = job.folder, job.scale, job.options.corpus
    where: dict[str, Any] = {"seed": job.seed, "device": job.device}
    if corpus is None:
        if not (job.work / "sources.json").exists():
            prepare(job.work, seed=job.seed)
        corpus = job.work
    train_base(corpus, folder, scale, **where)
    threads = torch.get_num_threads()
    train_heads(corpus, folder, scale, threads=threads, **where)
    train_markov_heads(corpus, folder, scale, seed=job.seed, threads=threads)
    evaluate(corpus, folder, scale, command=job.command, device=job.device)
    report(folder, folder)


if __name__ == "__main__":
    main()
