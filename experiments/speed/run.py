"""SPEED (Hooper et al. 2023, arXiv:2310.12072): from packages to a report.

    python -m experiments.speed.run --scale hours --threads 2

Prepare, language models, translation models, evaluate, report: a step that is done is left alone, one that
was interrupted goes on. Texts lie in --work, and the translation corpus where experiments/translation has
it, or in --corpus; all else lies in the folder of the scale.
"""

from __future__ import annotations

from pathlib import Path

import transformers

from experiments.kit.command import Command, Job
from experiments.speed.evaluate import evaluate
from experiments.speed.language import train_language
from experiments.speed.prepare import WORK, prepare
from experiments.speed.report import report
from experiments.speed.scales import SCALES, Scale
from experiments.speed.translation import train_translation
from experiments.translation import prepare as translation


def main(arguments: list[str] | None = None) -> None:
    command = Command(__doc__, "experiments.speed.run", SCALES, WORK)
    command.add(
        "--corpus", type=Path, default=translation.WORK, help="train.tsv, dev.tsv and test.tsv to use"
    )
    command.run(_steps, arguments)


def _steps(job: Job[Scale]) -> None:
    transformers.utils.logging.disable_progress_bar()
    corpus: Path = job.options.corpus
    if not (job.work / "sources.json").exists():
        prepare(job.work, seed=job.seed)
    if not (corpus / "test.tsv").exists():
        translation.prepare(corpus, seed=job.seed)
    train_language(job.work, job.folder, job.scale, seed=job.seed)
    train_translation(corpus, job.folder, job.scale, seed=job.seed)
    evaluate(job.work, corpus, job.folder, job.scale, command=job.command)
    report(job.folder, job.folder)


if __name__ == "__main__":
    main()
