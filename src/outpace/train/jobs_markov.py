"""What `outpace train markov_heads` does: states of a model, and the training of heads on them.

A folder of an encoder-decoder model goes through transformers, and says itself what there is to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outpace.core.errors import OutpaceError
from outpace.heads.markov_heads import MarkovConfig
from outpace.models.text import Model, load
from outpace.progress import Progress
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget
from outpace.train.allocator import keep_freed_memory
from outpace.train.data import Pair, data_hash, frequent_tokens
from outpace.train.distil import DISTILLED, TEACHER, beam_search, distil, longest_text
from outpace.train.examples import FEATURES, native_features
from outpace.train.features import ENDS, FeatureFile, Features
from outpace.train.loop import Plan
from outpace.train.markov_heads import check_options, train_markov
from outpace.train.opened import is_seq2seq, open_transformers
from outpace.train.origin import ORIGIN, claim
from outpace.train.precision import Precision
from outpace.train.recording import FINAL
from outpace.train.translations import add_translations


@dataclass(frozen=True, slots=True)
class MarkovJob:
    """The command's options, by their names.

    taps  None for the model's thirds and its end. name: what the model is called in the heads' folder.
    text  where `own_text` tokens of the model's own are; None: in the heads' folder.
    """

    target: str
    output: Path
    taps: tuple[str, ...] | None
    length: int
    width: int
    rank: int
    tokens: int
    steps: int
    segments: int
    lr: float
    precision: Precision
    checkpoint_s: float
    seed: int
    threads: int | None
    own_text: int
    name: str | None = None
    text: Path | None = None

    def run(self, pairs: Sequence[Pair], progress: Progress | None) -> MarkovConfig:
        """Write the states and train."""
        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)
        if is_seq2seq(self.target):
            return self._seq2seq(pairs, progress)
        model, taps = self._opened()
        features, data = self._recorded(model, taps, pairs, progress)
        return self._train(model.target, features, taps, data, model.name, progress)

    def record(self, progress: Progress | None) -> None:
        """Write the model's own text with its states alone, which `run` then finds."""
        self._recorded(*self._opened(), [], progress)

    def _opened(self) -> tuple[Model, tuple[str, ...]]:
        model = load(self.target, threads=self.threads)
        target: Any = model.target
        return model, self._checked_taps(target.num_layers)

    def _recorded(
        self, model: Model, taps: tuple[str, ...], pairs: Sequence[Pair], progress: Progress | None
    ) -> tuple[Features, str]:
        return native_features(
            model,
            self.output,
            pairs,
            own_text=self.own_text,
            seed=self.seed,
            taps=taps,
            path=self.text,
            progress=progress,
        )

    def _seq2seq(self, pairs: Sequence[Pair], progress: Progress | None) -> MarkovConfig:
        if self.own_text or not all(isinstance(pair.given, str) for pair in pairs):
            raise OutpaceError("an encoder-decoder model is trained on texts, accepted are source and target")
        model, tokenizer = open_transformers(self.target, seq2seq=True)
        target: Any = HfSeq2SeqTarget(model)
        taps = self._checked_taps(target.num_layers)
        teacher = {"teacher": target.fingerprint()}
        path, states = self.output / DISTILLED, self.output / FEATURES
        claim(self.output / TEACHER, teacher, begun=path.exists())
        pairs = distil(
            pairs,
            path,
            beam_search(model, tokenizer, beams=1),
            own=True,
            vocab_size=target.vocab_size,
            progress=progress,
        )
        data = data_hash(pairs)
        claim(states / ORIGIN, {**teacher, "data": data, "taps": list(taps)}, begun=(states / ENDS).exists())
        cut: Any = {"truncation": True, "max_length": longest_text(model, tokenizer)}
        sources = tokenizer([pair.given for pair in pairs], **cut)["input_ids"]
        file = FeatureFile(states, len(taps) * target.hidden_size)
        add_translations(
            file,
            target,
            [(source, pair.token_ids or []) for source, pair in zip(sources, pairs, strict=True)],
            start=model.config.decoder_start_token_id,
            taps=taps,
            progress=progress,
        )
        return self._train(target, file.read(), taps, data, self.target, progress)

    def _checked_taps(self, num_layers: int) -> tuple[str, ...]:
        """Those that are read; an OutpaceError for options that nothing can be trained with."""
        taps = self.taps or thirds(num_layers)
        check_options(
            taps=taps,
            length=self.length,
            width=self.width,
            rank=self.rank,
            segments=self.segments,
            precision=self.precision,
        )
        return taps

    def _train(
        self, target: Any, features: Features, taps: tuple[str, ...], data: str, name: str,
        progress: Progress | None,
    ) -> MarkovConfig:  # fmt: skip
        return train_markov(
            target,
            features,
            self.output,
            taps=taps,
            token_ids=frequent_tokens([features.tokens.tolist()], self.tokens),
            length=self.length,
            width=self.width,
            rank=self.rank,
            segments=self.segments,
            plan=Plan(self.steps, self.lr, seed=self.seed, checkpoint_s=self.checkpoint_s),
            precision=self.precision,
            name=self.name or name,
            data=data,
            progress=progress,
        )


def thirds(num_layers: int) -> tuple[str, ...]:
    """The taps behind one third and two thirds of the layers, and behind all."""
    found = [str(number * num_layers // 3 - 1) for number in (1, 2) if number * num_layers >= 3]
    return (*dict.fromkeys(found), FINAL)
