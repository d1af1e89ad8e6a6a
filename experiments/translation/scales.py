"""How large the experiment is: the model, steps of training for each part, segments to judge by.

What the parts are planned to come to in minutes on two cores with nothing beside (`--threads 2`). The model
of `full` has 8.4 million weights, that of `hours` 5 million:

                               full      hours
    prepare, pieces              20          8   (most of it the download)
    base                        115         50
    own output of the base       40          4   (greedily)
    frozen heads             2 x 15      2 x 6
    finetuned heads          3 x 60     3 x 12   (on gold, on own output, on that of the model so finetuned)
    own output, renewed          40          4
    Markov heads             2 x 15      2 x 6
    evaluation, about            50          8
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.translation.model import Size


@dataclass(frozen=True, slots=True)
class Scale:
    """What a run consists of.

    tokens           target tokens of a step of the base. lr: its learning rate; heads have parts of both.
    base_steps       of the base.
    own_segments     how many of the training sources a model says itself.
    frozen_steps     of heads on the frozen base, trained once, for the largest k.
    finetuned_steps  of each of the trainings of a model with its heads, for the largest k too.
    markov_steps     of Markov heads, on own output of `markov_segments` segments or so.
    sentences        how many test segments are translated with every setting, in batches.
    timed            how many of them are translated one by one as well, for wall-clock time.
    tuned            how many dev segments the weight of the n-grams is chosen on, of `alphas`.
    num_heads        the k of the table.
    """

    size: Size
    num_pieces: int
    tokens: int
    lr: float
    base_steps: int
    own_segments: int
    frozen_steps: int
    finetuned_steps: int
    markov_steps: int
    markov_segments: int
    sentences: int
    timed: int
    tuned: int
    num_heads: tuple[int, ...] = (2, 4, 8)
    alphas: tuple[float, ...] = (0.1, 0.3, 0.6)


_SHALLOW = Size(width=256, encoder_layers=3, decoder_layers=2, heads=4, hidden=1024, dropout=0.0)
_TINY = Size(width=32, encoder_layers=1, decoder_layers=1, heads=2, hidden=64, dropout=0.0)

SCALES = {
    "full": Scale(Size(), 8000, 2048, 1e-3, 5000, 400_000, 4000, 16_000, 8000, 100_000, 1500, 150, 200),
    "hours": Scale(_SHALLOW, 2000, 1024, 1e-3, 12_000, 100_000, 1500, 2500, 3000, 40_000, 500, 40, 100),
    "smoke": Scale(_TINY, 60, 256, 1e-2, 160, 150, 80, 80, 80, 60, 24, 2, 8, (2, 4), (0.1, 0.5)),
}
