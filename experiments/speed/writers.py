"""Language models as they write: natively, every way on the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import outpace
from experiments.speed.decoding import Way, Written, agreement, ways_of
from experiments.speed.models import BASE, END_ID, SPEED, kinds
from experiments.speed.scales import Packed, Scale
from outpace.core.call import Call, Prompt
from outpace.core.contracts import Target
from outpace.core.tree import TokenTree
from outpace.targets.hf_looped_model import LoopedForCausalLM

OTHERS = ("ngram", "speed:draft=ngram")
NODES = 64  # tokens that are judged in a call
Ids = Sequence[int]


class Writer:
    """A language model.

    folder   its files.
    stages   folders of its training, the last one last, which may have had more loops.
    packed   to what its weights are rounded, if at all.
    text     held-out tokens, in windows.
    """

    family = "language"

    def __init__(
        self,
        folder: Path,
        stages: Sequence[Path],
        scale: Scale,
        text: Iterable[Ids],
        packed: Packed | None = None,
    ) -> None:
        self.name, self.stages = folder.name + (f"-{packed}" if packed else ""), stages
        self.torch: Any = LoopedForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.loops: int = self.torch.config.num_loops
        self.temperatures = scale.temperatures
        self._every = stages[-1].name.endswith(f"-{SPEED}")
        self._written = scale.written
        self._text = text
        self._model = outpace.load(str(folder), quantize=packed)

    def ways(self, temperature: float) -> list[Way]:
        """All that is compared in greedy text, and what is used in sampled text."""
        every = self._every and not temperature
        return ways_of(self.loops, every=every, others=OTHERS if every else ())

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
        """Perplexity of held-out text, as the engine computes it."""
        lost = [_surprise(self._model.target, window) for window in self._text]
        return round(float(np.exp(np.mean(np.concatenate(lost)))), 3)


def _surprise(target: Target, tokens: Ids) -> NDArray[np.float64]:
    """f64[T - 1]: nats of every token but the first."""
    row, lost = target.open(), []
    for first in range(0, len(tokens) - 1, NODES):
        given = tokens[first : first + NODES][: len(tokens) - 1 - first]
        scores = target.score([Call.on(row, TokenTree.chain(given[0], given[1:]))])
        target.keep([row], [range(1, len(given))])
        logits = scores.logits(0, range(len(given))).astype(np.float64)
        named = np.take_along_axis(logits, np.array(tokens[first + 1 :][: len(given)])[:, None], axis=1)
        lost.append(np.logaddexp.reduce(logits, axis=1) - named[:, 0])
    target.free([row])
    return np.concatenate(lost)


def writers(folder: Path, scale: Scale, held_out: NDArray[np.uint16]) -> list[Writer]:
    """All language models of a scale; the held-out text is what perplexity is of."""
    found = []
    for label, size in scale.language.items():
        count = min(scale.judged, len(held_out) - 1) // size.window
        text = [held_out[size.window * n :][: size.window + 1].tolist() for n in range(count)]
        for name in kinds(size.layers, size.loops, size.early, alone=size.alone):
            trained = folder / f"{label}-{name}"
            if name != SPEED:
                found.append(Writer(trained, [trained], scale, text))
                continue
            stages = [folder / f"{label}-{BASE}", trained]
            looped = [trained, *(cut(trained, loops) for loops in size.fewer)]
            forms: list[Packed | None] = [None, *size.packed]
            found += [Writer(one, stages, scale, text, form) for form in forms for one in looped]
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
