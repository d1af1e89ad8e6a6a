"""What `outpace train blockwise` does: the right base for a model, examples from pairs, and the training.

An encoder-decoder folder, and a model to be finetuned, are loaded by transformers. Frozen heads of any other
model are trained on the states that the native engine computes (`features.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outpace.core.errors import OutpaceError
from outpace.heads.file import First, HeadsConfig
from outpace.heads.proposals import tapped
from outpace.models.text import load
from outpace.progress import Progress
from outpace.targets.hf_taps import model_fingerprint
from outpace.train.allocator import keep_freed_memory
from outpace.train.bases import CausalBase, Seq2SeqBase
from outpace.train.blockwise import Regime, Trunk, train_blockwise
from outpace.train.data import MAX_TOKENS, Pair, by_length, data_hash, frequent_tokens
from outpace.train.distil import DISTILLED, TEACHER, beam_search, distil, greedy, longest_text
from outpace.train.examples import native_features, token_pairs
from outpace.train.features import FeatureBase
from outpace.train.head_losses import WEIGHTINGS
from outpace.train.loop import Plan
from outpace.train.opened import is_seq2seq, open_transformers
from outpace.train.origin import claim
from outpace.train.precision import Precision

Batches = Callable[[int], Any]
Examples = Callable[[Sequence[Pair]], tuple[Batches, list[list[int]]]]
"""Pairs -> batches of them, and the tokens of their outputs."""
HEADS_FIRST = 0.2
"""Part of the steps of finetuning that train the heads alone."""


@dataclass(frozen=True, slots=True)
class BlockwiseJob:
    """The command's options, by their names."""

    target: str
    output: Path
    regime: Regime
    heads: int
    width: int | None
    first: First
    tokens: int
    steps: int
    batch: int
    lr: float
    heads_per_step: int
    weights: str
    model_rate: float
    precision: Precision
    checkpoint_s: float
    seed: int
    threads: int | None
    own_text: int

    def distil(self, pairs: Sequence[Pair], teacher: str | None, progress: Progress | None) -> list[Pair]:
        """The pairs with outputs of the teacher, kept in the output folder."""
        source = teacher or self.target
        if is_seq2seq(source):
            model, tokenizer = open_transformers(source, seq2seq=True)
            # What the target itself will say is greedy; a teacher's best is what the paper takes.
            write = beam_search(model, tokenizer, beams=1 if teacher is None else 4)
            fingerprint, vocab_size = model_fingerprint(model), int(model.config.vocab_size)
        else:
            ours = load(source, threads=self.threads)
            write, fingerprint = greedy(ours), tapped(ours.target, "blockwise").fingerprint()
            vocab_size = ours.target.vocab_size
        path = self.output / DISTILLED
        claim(self.output / TEACHER, {"teacher": fingerprint}, begun=path.exists())
        return distil(pairs, path, write, own=teacher is None, vocab_size=vocab_size, progress=progress)

    def run(
        self, pairs: Sequence[Pair], progress: Progress | None, *, gold: Sequence[Pair] = ()
    ) -> HeadsConfig:
        """Train, and write the heads.

        gold  what a model that is finetuned on distilled pairs reads in turns with them; none: those alone.
        """
        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)
        if is_seq2seq(self.target):
            return self._seq2seq(pairs, gold, progress)
        if self.regime == "finetuned":
            return self._causal(pairs, gold, progress)
        return self._native(pairs, progress)

    def _train(
        self,
        base: Any,
        batches: Batches,
        data: str,
        outputs: Sequence[Sequence[int]],
        progress: Progress | None,
        gold: Batches | None = None,
    ) -> HeadsConfig:
        return train_blockwise(
            base,
            batches,
            self.output,
            num_heads=self.heads,
            width=self.width,
            regime=self.regime,
            first=self.first,
            plan=Plan(self.steps, self.lr, seed=self.seed, checkpoint_s=self.checkpoint_s),
            heads_per_step=self.heads_per_step,
            weights=WEIGHTINGS[self.weights](self.heads),
            trunk=Trunk(heads_first=HEADS_FIRST, rate=self.model_rate, gold=gold),
            precision=self.precision,
            token_ids=frequent_tokens(outputs, self.tokens) if self.tokens else None,
            data=f"{data}, batches of {self.batch} tokens",
            progress=progress,
        )

    def _native(self, pairs: Sequence[Pair], progress: Progress | None) -> HeadsConfig:
        model = load(self.target, threads=self.threads)
        target: Any = model.target
        features, data = native_features(
            model, self.output, pairs, own_text=self.own_text, seed=self.seed, progress=progress
        )
        base = FeatureBase(target, features, target.output_rows, name=model.name)
        outputs = [features.tokens.tolist()]
        return self._train(base, base.batches(self.batch, self.seed), data, outputs, progress)

    def _causal(self, pairs: Sequence[Pair], gold: Sequence[Pair], progress: Progress | None) -> HeadsConfig:
        model, _ = open_transformers(self.target, seq2seq=False)
        ours = load(self.target, threads=self.threads)

        def examples(pairs: Sequence[Pair]) -> tuple[Batches, list[list[int]]]:
            texts = token_pairs(pairs, ours, MAX_TOKENS)
            rows = [([*given, *wanted], len(given)) for given, wanted in texts]
            pick = by_length([len(ids) for ids, _ in rows], self.batch, self.seed)

            def batches(step: int) -> dict[str, torch.Tensor]:
                some = [rows[number] for number in pick(step)]
                ids = _padded([ids for ids, _ in some], 0)
                labels = _padded([[-100] * max(0, n - 1) + ids[max(1, n) :] for ids, n in some], -100)
                return {"input_ids": ids, "labels": torch.nn.functional.pad(labels, (0, 1), value=-100)}

            return batches, [wanted for _, wanted in texts]

        return self._on(CausalBase(model, name=self.target), examples, pairs, gold, progress)

    def _seq2seq(self, pairs: Sequence[Pair], gold: Sequence[Pair], progress: Progress | None) -> HeadsConfig:
        model, tokenizer = open_transformers(self.target, seq2seq=True)
        if self.own_text or not all(isinstance(pair.given, str) for pair in pairs):
            raise OutpaceError("an encoder-decoder model is trained on texts, accepted are source and target")
        cut: Any = {"truncation": True, "max_length": longest_text(model, tokenizer)}

        def examples(pairs: Sequence[Pair]) -> tuple[Batches, list[list[int]]]:
            sources = tokenizer([pair.given for pair in pairs], **cut)["input_ids"]
            targets = _target_ids(pairs, tokenizer, cut)
            pick = by_length([len(ids) for ids in targets], self.batch, self.seed)

            def batches(step: int) -> dict[str, torch.Tensor]:
                some = pick(step)
                ids = _padded([sources[number] for number in some], -1)
                mask = (ids >= 0).long()
                labels = _padded([targets[number] for number in some], -100)
                pad = model.config.pad_token_id
                return {"input_ids": ids.masked_fill(ids < 0, pad), "attention_mask": mask, "labels": labels}

            return batches, targets

        return self._on(Seq2SeqBase(model, name=self.target), examples, pairs, gold, progress)

    def _on(
        self, base: Any, examples: Examples, pairs: Sequence[Pair], gold: Sequence[Pair],
        progress: Progress | None,
    ) -> HeadsConfig:  # fmt: skip
        """Train on pairs, and in turns on the gold ones, that `examples` makes batches of."""
        batches, outputs = examples(pairs)
        in_turns = examples(gold)[0] if gold else None
        return self._train(base, batches, data_hash([*pairs, *gold]), outputs, progress, in_turns)


def _target_ids(pairs: Sequence[Pair], tokenizer: Any, cut: dict[str, Any]) -> list[list[int]]:
    """The outputs as an encoder-decoder model's tokens, without an end where they have none."""
    rows = tokenizer(text_target=[pair.wanted for pair in pairs], **cut)["input_ids"]
    ends = [tokenizer.eos_token_id]
    return [_cut_end(pair, ids, ends)[: cut["max_length"]] for pair, ids in zip(pairs, rows, strict=True)]


def _cut_end(pair: Pair, ids: list[int], ends: list[int]) -> list[int]:
    """What the model has said; else the tokens of the text, without an end where it has none."""
    if pair.token_ids is not None:
        return pair.token_ids
    return ids[:-1] if ids[-1:] == ends and not pair.ended else ids


def _padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """i64[B, T]."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])
