"""C2T (Huo et al. 2025, arXiv:2502.13652): from models to a report.

    python -m experiments.c2t.run --scale hours --target MODEL.gguf --draft-model DRAFT.gguf --threads 2

Full trees, classifiers, evaluation, report: a step that is done is left alone, one that was interrupted goes
on. Two pairs: a target with a draft model of its vocabulary, and the default model with itself, some layers
left out. Without --target there is the second pair alone.
"""

from __future__ import annotations

from pathlib import Path

from experiments.c2t.evaluate import evaluate
from experiments.c2t.pairs import WORK, pairs_of, train_pair
from experiments.c2t.report import report
from experiments.c2t.scales import SCALES, Scale
from experiments.kit.command import Command, Job
from outpace.bench.prompts import BUILTIN, read_prompts
from outpace.core.errors import OutpaceError


def main(arguments: list[str] | None = None) -> None:
    command = Command(__doc__, "experiments.c2t.run", SCALES, WORK)
    command.add("--target", type=Path, help="a model file or folder")
    command.add("--draft-model", type=Path, help="a smaller one of the same vocabulary")
    command.add("--prompts", type=Path, default=BUILTIN, help="what to be judged by, as of `outpace bench`")
    command.run(_steps, arguments)


def _steps(job: Job[Scale]) -> None:
    given = job.options
    if (given.target is None) != (given.draft_model is None):
        raise OutpaceError("--target and --draft-model go together, accepted are both or none")
    pairs = pairs_of(*(None if one is None else str(one) for one in (given.target, given.draft_model)))
    asked = read_prompts(given.prompts, limit=job.scale.judged)
    for number, pair in enumerate(pairs):
        first = job.folder / pairs[0].name if number else None
        train_pair(job.folder, pair, job.scale, first=first, seed=job.seed)
    evaluate(job.folder, pairs, asked, job.scale, command=job.command)
    report(job.folder, job.folder)


if __name__ == "__main__":
    main()
