"""The rows of the tables: which heads draft, how many of them, in what shape, and what is accepted."""

from __future__ import annotations

from pathlib import Path

from experiments.kit.heads import Training
from experiments.kit.results import Record
from experiments.kit.subjects import EXACT, Setting
from experiments.translation.heads import RENEWED, trainings
from experiments.translation.markov import markov_trainings
from experiments.translation.scales import Scale

TOP2, TOP3 = "topk:k=2", "topk:k=3"
MIN_BLOCK = "min_block:length=2"
RELAXED = (TOP2, TOP3, MIN_BLOCK)

CHAIN, TREE, LATTICE = "chain", "tree", "lattice"
MARKOV_CHAIN, MARKOV_TREE = "Markov chain", "Markov tree"
NODES = "size=16,min_p=0.02"  # of a tree of the likeliest paths, with n-grams or without

NONE: Record = {"regime": None, "data": None, "k": 1, "draft": "none", "rule": EXACT}
TRANSFORMERS = NONE | {"draft": "transformers"}
CTRANSLATE2 = NONE | {"draft": "ctranslate2"}


def options_of(setting: Setting, folder: Path) -> dict[str, str]:
    """For `outpace.accelerate`."""
    where = setting.training.heads(folder)
    if setting.draft == MARKOV_CHAIN:
        chain = f"chain:length={setting.k - 1}"
        return {"draft": f"markov_heads:path={where}", "tree": chain, "rule": setting.rule}
    if setting.draft == MARKOV_TREE:
        return {"draft": f"markov_heads:path={where},{NODES}", "rule": setting.rule}
    heads = f"path={where},heads={setting.k}"
    if setting.draft == CHAIN:
        return {"draft": f"blockwise:{heads}", "tree": f"chain:length={setting.k - 1}", "rule": setting.rule}
    if setting.draft == TREE:
        return {"draft": f"blockwise:{heads},{NODES}", "rule": setting.rule}
    ngrams = f"ngrams={ngrams_file(folder, setting.training.data)},alpha={setting.alpha}"
    return {"draft": f"blockwise_lattice:{heads},{NODES},{ngrams}", "rule": setting.rule}


def ngrams_file(folder: Path, data: str) -> Path:
    """The back-off table of the targets that were learned from."""
    return folder / f"ngrams-{data}.npz"


def chains(scale: Scale) -> list[Setting]:
    """The paper's, for every k; relaxed rules are for the model that was finetuned last."""
    return [
        Setting(training, k, CHAIN, rule)
        for training in trainings(scale)
        for k in scale.num_heads
        for rule in (EXACT, *(RELAXED if training.data == RENEWED else ()))
    ]


def markov(scale: Scale) -> list[Setting]:
    """Blocks of which each piece knows those before it."""
    return [
        Setting(training, training.num_heads, draft)
        for training in markov_trainings(scale)
        for draft in (MARKOV_CHAIN, MARKOV_TREE)
    ]


def rescored(scale: Scale) -> list[Training]:
    """The heads whose drafts n-grams mend."""
    return trainings(scale)
