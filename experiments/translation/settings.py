"""The rows of the tables: which heads draft, how many of them, in what shape, and what is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.kit.results import Record
from experiments.translation.heads import Data, Training, trainings
from experiments.translation.scales import Scale

EXACT = "match"
TOP2, TOP3 = "topk:k=2", "topk:k=3"
MIN_BLOCK = "min_block:length=2"
RELAXED = (TOP2, TOP3, MIN_BLOCK)

CHAIN, TREE, LATTICE = "chain", "tree", "lattice"
NODES = "size=16,min_p=0.02"  # of a tree of the likeliest paths, with n-grams or without

NONE: Record = {"regime": None, "data": None, "k": 1, "draft": "none", "rule": EXACT}
TRANSFORMERS = NONE | {"draft": "transformers"}
CTRANSLATE2 = NONE | {"draft": "ctranslate2"}


@dataclass(frozen=True, slots=True)
class Setting:
    """Heads, how many of them are used, how they draft, a rule. alpha: what n-grams weigh in a lattice."""

    training: Training
    k: int
    draft: str = CHAIN
    rule: str = EXACT
    alpha: float | None = None

    @property
    def record(self) -> Record:
        """As records have it."""
        record: Record = {"regime": self.training.regime, "data": self.training.data, "k": self.k}
        record |= {"draft": self.draft, "rule": self.rule}
        return record if self.alpha is None else record | {"alpha": self.alpha}

    def options(self, folder: Path) -> dict[str, str]:
        """For `outpace.accelerate`."""
        heads = f"path={self.training.heads(folder)},heads={self.k}"
        if self.draft == CHAIN:
            return {"draft": f"blockwise:{heads}", "tree": f"chain:length={self.k - 1}", "rule": self.rule}
        if self.draft == TREE:
            return {"draft": f"blockwise:{heads},{NODES}", "rule": self.rule}
        ngrams = f"ngrams={ngrams_file(folder, self.training.data)},alpha={self.alpha}"
        return {"draft": f"blockwise_lattice:{heads},{NODES},{ngrams}", "rule": self.rule}


def ngrams_file(folder: Path, data: Data) -> Path:
    """The back-off table of the targets that were trained on."""
    return folder / f"ngrams-{data}.npz"


def chains(scale: Scale) -> list[Setting]:
    """The paper's: frozen heads serve every k, relaxed rules are for models finetuned on distilled data."""
    found = []
    for training in trainings(scale):
        relaxed = training.regime == "finetuned" and training.data == "distilled"
        for k in scale.num_heads if training.regime == "frozen" else (training.num_heads,):
            found += [Setting(training, k, CHAIN, rule) for rule in (EXACT, *(RELAXED if relaxed else ()))]
    return found


def rescored(scale: Scale) -> list[Training]:
    """The heads whose drafts n-grams mend: the most that there are, of every kind."""
    return [training for training in trainings(scale) if training.num_heads == max(scale.num_heads)]
