"""How large the experiment is: the model, minutes of training for each part, pictures to judge by.

Minutes are on two cores with nothing beside (`--threads 2`): how many steps fit into them is measured when a
training begins, so that a slower machine trains less, not longer. What they come to:

                         full      hours
    base                  120         18
    frozen heads           15          3
    finetuned heads        17          6   (k = 2; as many steps with k = 4, 6, 8 take 76 and 28 minutes)
    own pictures           10          -   (full: 2,048 greedy pictures, and heads trained on them)
    own, finetuned         51          -   (k = 4, 8, as many steps)
    own, frozen            15          -
    evaluation, about      45          6
    in all, about         349         61
"""

from __future__ import annotations

from dataclasses import dataclass

from outpace.targets.pixel_model import PixelConfig


@dataclass(frozen=True, slots=True)
class Scale:
    """What a run consists of.

    batch           pictures of a training step.
    frozen_minutes  of heads on a frozen base, trained once, for the largest k. finetuned_minutes: for the
                    smallest k; all others make as many steps.
    pictures        how many held-out pictures are written with every setting, in batches.
    timed           how many of them are written one by one as well, for wall-clock time.
    num_heads       the k of the table.
    own_pictures    how many greedy pictures of the base there are to train on in place of real ones, 0: none.
    own_num_heads   the k of models that are finetuned on these.
    jitter          levels: the largest standard deviation of the noise on what a model reads in training. A
                    picture draws its own, from 0 on.
    steps           of every training, in place of minutes.
    """

    config: PixelConfig
    batch: int
    base_minutes: float
    frozen_minutes: float
    finetuned_minutes: float
    pictures: int
    timed: int
    num_heads: tuple[int, ...] = (2, 4, 6, 8)
    own_pictures: int = 0
    own_num_heads: tuple[int, ...] = ()
    jitter: float = 24.0
    steps: int | None = None


_QUARTER = PixelConfig(hidden_size=96, num_layers=3, num_heads=3, feedforward_size=384)
_TINY = PixelConfig(
    height=8, width=8, hidden_size=16, num_layers=1, num_heads=2, feedforward_size=32, window=16
)

SCALES = {
    "full": Scale(PixelConfig(), 16, 120, 15, 17, 128, 12, own_pictures=2048, own_num_heads=(4, 8)),
    "hours": Scale(_QUARTER, 8, 18, 3, 6, 64, 16),
    "smoke": Scale(_TINY, 8, 0, 0, 0, 6, 2, (2, 4), own_pictures=16, own_num_heads=(4,), jitter=2, steps=150),
}
