"""Language models as they write: natively, every way on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import outpace
from experiments.speed.decoding import Way, Written, agreement, ways_of
from experiments.speed.models import END_ID, kinds
from experiments.speed.scales import Scale
from outpace.core.call import Prompt
from outpace.targets.hf_looped_model import LoopedForCausalLM

OTHERS = ("ngram", "speed:draft=ngram")
Ids = Sequence[int]


class Writer:
    """A language model. folder: its files. trained: the folder of its training, which had `most` loops."""

    family = "language"

    def __init__(self, folder: Path, trained: Path, scale: Scale, *, every: bool) -> None:
        self.name, self.trained = folder.name, trained
        self.torch: Any = LoopedForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.loops: int = self.torch.config.num_loops
        self.ways = ways_of(self.loops, every=every, others=OTHERS if every else ())
        self.temperatures = scale.temperatures
        self._written = scale.written
        self._model = outpace.load(str(folder))

    def write(self, given: Ids, way: Way, temperature: float) -> Written:
        """One text; its seed is 0."""
        made = self._model.generate(
            Prompt(given), draft=way, max_tokens=self._written, temperature=temperature
        )
        return Written.of(made, self.loops)

    def agreement(self, given: Ids, tokens: Ids) -> NDArray[np.bool_]:
        """bool[R - 1, T] in a text."""
        ids = torch.tensor([[*given, *tokens]])
        labels = ids[:, 1:].clone()
        labels[:, : len(given) - 1] = -100
        return agreement(self.torch, {"input_ids": ids[:, :-1]}, labels)

    def quality(self, run: dict[str, Any]) -> float:
        """Perplexity: of the output after the loops that this model has."""
        return round(float(np.exp(run["nats"][self.loops - 1])), 3)


def writers(folder: Path, scale: Scale) -> list[Writer]:
    """All language models of a scale."""
    found = []
    for label, size in scale.language.items():
        for name in kinds(size.layers, size.loops, size.early, alone=size.alone):
            trained = folder / f"{label}-{name}"
            found.append(Writer(trained, trained, scale, every=name == "speed"))
            if name == "speed":
                found += [Writer(cut(trained, loops), trained, scale, every=True) for loops in size.fewer]
    return found


def cut(folder: Path, loops: int) -> Path:
    """The model of a folder with fewer loops, in a folder beside it."""
    where = folder.with_name(f"{folder.name}-{loops}")
    if not (where / "tokenizer.json").exists():
        model: Any = LoopedForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.config.num_loops = loops
        model.save_pretrained(where)
        for name in ("tokenizer_config.json", "tokenizer.json"):
            (where / name).write_bytes((folder / name).read_bytes())
    return where


def prompts(tokens: NDArray[np.uint16], count: int, length: int) -> list[list[int]]:
    """Places in a text, spread evenly, none with the end of a document in it."""
    starts = range(0, len(tokens) - length, max(1, (len(tokens) - length) // (4 * count)))
    found = [tokens[start : start + length].tolist() for start in starts]
    whole = [one for one in found if END_ID not in one]
    return whole[:: max(1, len(whole) // count)][:count]
