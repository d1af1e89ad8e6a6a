"""How large the experiment is: the model, minutes of training for each part, segments to judge by.

Minutes are on two cores with nothing beside (`--threads 2`): how many steps fit into them is measured when a
training begins, so that a slower machine trains less, not longer. The model of `full` (8.4 million weights)
was seen to train at about 1,500 target tokens a second, one pass over the corpus in an hour; that of
`hours` has 5 million and a vocabulary of 2,000. What they are planned to come to, in minutes:

                               full      hours
    prepare, pieces              20         15   (most of it the download)
    base                        115         35   (asked for 25: the pace is measured on a few steps)
    teacher, of another seed     70          -   (hours: the base teaches)
    distil                       60          3   (150,000 and 60,000 segments with 4 beams)
    base, on distilled targets   45          5
    frozen heads             2 x 15      2 x 5
    finetuned heads          6 x 32      6 x 11  (k = 2, 4, 8, on gold and on distilled targets)
    evaluation, about            50          5
    in all, about               582        139
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.translation.model import Size


@dataclass(frozen=True, slots=True)
class Scale:
    """What a run consists of.

    tokens             target tokens of a training step. lr: of a base; what follows it has a part of that.
    teacher_minutes    0: there is no teacher of another seed, the base's own beams are the distilled targets.
    distil_segments    how many training segments are distilled.
    distilled_minutes  of the base on these targets, for which training on gold ones is gone on with.
    frozen_minutes     of heads on a frozen base, trained once, for the largest k. finetuned_minutes: each k.
    sentences          how many test segments are translated with every setting, in batches.
    timed              how many of them are translated one by one as well, for wall-clock time.
    tuned              how many dev segments the weight of the n-grams is chosen on, of `alphas`.
    num_heads          the k of the table.
    base_steps         of base and teacher, in place of minutes. steps: of all other trainings.
    """

    size: Size
    num_pieces: int
    tokens: int
    lr: float
    base_minutes: float
    teacher_minutes: float
    distil_segments: int
    distilled_minutes: float
    frozen_minutes: float
    finetuned_minutes: float
    sentences: int
    timed: int
    tuned: int
    num_heads: tuple[int, ...] = (2, 4, 8)
    alphas: tuple[float, ...] = (0.1, 0.3, 0.6)
    base_steps: int | None = None
    steps: int | None = None


_SHALLOW = Size(width=256, encoder_layers=3, decoder_layers=2, heads=4, hidden=1024, dropout=0.0)
_TINY = Size(width=32, encoder_layers=1, decoder_layers=1, heads=2, hidden=64, dropout=0.0)

SCALES = {
    "full": Scale(Size(), 8000, 2048, 1e-3, 115, 70, 150_000, 45, 15, 32, 1500, 150, 200),
    "hours": Scale(_SHALLOW, 2000, 1024, 1e-3, 25, 0, 60_000, 5, 5, 11, 500, 40, 100),
    "smoke": Scale(
        _TINY, 60, 256, 1e-2, 0, 0.1, 64, 0, 0, 0, 24, 2, 8, (2, 4), (0.1, 0.5), base_steps=160, steps=80
    ),
}
