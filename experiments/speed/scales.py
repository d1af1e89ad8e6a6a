"""How large the experiment is: the models, how long each is trained, what it is judged by.

A training's length is in steps of so many tokens, not in minutes: models of one size see the same text. On
two cores, in minutes, as planned. `full` has five times the steps of `hours`; it has not been run:

                               full      hours
    prepare                      30         30   (most of it the download)
    language, narrow             90         18
    language, wide              170         34
    translation                 200         40
    evaluation                   20         20
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from experiments.translation.model import Size

Packed = Literal["q8", "q4"]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a model learns to agree with itself: by a mutual loss of the first loop and the last one."""

    steps: int
    weight: float
    lr: float


@dataclass(frozen=True, slots=True)
class Language:
    """Language models of one width: G distinct layers, R loops.

    early   weights of early loops' losses, of the models that are trained for SPEED. fewer: the numbers of
            loops, below R, that these models are judged with too: these have been drawn in the training.
    packed  roundings of the weights that a model trained for SPEED is also decoded with.
    tuning  of the model for SPEED, after its training.
    alone   whether there are no models to compare with.
    once    the steps at the start in which shared layers run once alone, which takes an R-th of the time.
            Each of the others makes 2 to R loops, by chance. None: all steps make R loops.
    window  tokens of an example. batch: examples of a step.
    """

    width: int
    layers: int
    loops: int
    early: Mapping[int, float]
    tuning: Tuning
    steps: int
    fewer: tuple[int, ...] = ()
    packed: tuple[Packed, ...] = ()
    alone: bool = False
    once: int = 0
    window: int = 256
    batch: int = 8
    lr: float = 1e-3


@dataclass(frozen=True, slots=True)
class Translation:
    """Translation models: an encoder, and a decoder of `size.decoder_layers` layers that run `loops` times.

    steps   of the model with one loop that all others go on from. more: of each of these.
    tuning  of the model for SPEED, which goes on from the one with shared layers.
    tokens  of the target, in a step.
    """

    size: Size
    loops: int
    tuning: Tuning
    steps: int
    more: int
    num_pieces: int = 2000
    tokens: int = 1024
    lr: float = 1e-3

    @property
    def early(self) -> Mapping[int, float]:
        """Weights of early loops' losses, of the model for SPEED."""
        return {1: self.tuning.weight}

    def of(self, layers: int) -> Size:
        """With so many decoder layers."""
        return replace(self.size, decoder_layers=layers)


@dataclass(frozen=True, slots=True)
class Scale:
    """What a run consists of.

    language      by label. num_tokens: of their vocabulary. held_out: tokens that models are judged by while
                  they are trained; judged: by which the engine's perplexity is.
    prompts       texts that are gone on with: `given` tokens of each, by `written` tokens.
    temperatures  of these. sentences: translated for BLEU; the first `timed` one by one, in every way.
    """

    language: Mapping[str, Language]
    translation: Translation
    num_tokens: int = 4096
    held_out: int = 100_000
    judged: int = 25_600
    prompts: int = 12
    given: int = 64
    written: int = 128
    temperatures: tuple[float, ...] = (0.0, 0.8)
    sentences: int = 500
    timed: int = 24


_EARLY = {1: 1.0}
_BRIEF = Tuning(6, weight=2.0, lr=1e-3)
_DECODER = Size(width=256, encoder_layers=3, decoder_layers=2, heads=4, hidden=1024, dropout=0.0)
_TINY = Size(width=32, encoder_layers=1, decoder_layers=1, heads=2, hidden=64, dropout=0.0)


def _scale(times: int) -> Scale:
    """`times` as much training as that of `hours`. The wide models have 31 million weights."""
    tuning = Tuning(120 * times, weight=8.0, lr=5e-4)
    wide = Language(768, 4, 6, _EARLY, tuning, 800 * times, once=560 * times)
    return Scale(
        {
            "narrow": Language(384, 2, 4, _EARLY, tuning, 450 * times, once=300 * times, lr=2e-3),
            "wide": replace(wide, fewer=(4,), packed=("q8",), alone=True),
        },
        Translation(_DECODER, 4, Tuning(300 * times, 4.0, 5e-4), 4000 * times, 600 * times),
    )


SCALES = {
    "full": _scale(5),
    "hours": _scale(1),
    "smoke": Scale(
        {
            "narrow": Language(64, 1, 3, _EARLY, _BRIEF, 12, window=32, batch=4),
            "wide": Language(
                64,
                1,
                4,
                {1: 0.5},
                _BRIEF,
                12,
                fewer=(3,),
                packed=("q8",),
                alone=True,
                once=4,
                window=32,
                batch=4,
            ),
        },
        Translation(_TINY, 3, _BRIEF, 12, 6, num_pieces=60, tokens=256, lr=1e-2),
        num_tokens=300,
        held_out=1000,
        judged=200,
        prompts=2,
        given=16,
        written=16,
        sentences=8,
        timed=2,
    ),
}
