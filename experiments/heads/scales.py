"""How large the experiment is: text to learn from, time for each kind of heads, prompts to be judged by.

On two cores, in minutes, with the default model (135 million weights):

                          full      hours
    own text                35          9
    trainings           5 x 60      5 x 8   (and 3 to 10 each for states)
    evaluation              60         15
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """What a run consists of.

    own_tokens  of text that the model writes itself, which all heads learn from.
    minutes     of training for each kind, the same for all; `steps` in place of them.
    ahead       how many tokens heads look ahead.
    drafted     the most frequent tokens, which alone are drafted.
    judged      prompts of each category, and tokens from each.
    nodes       of the trees.
    long        tokens of a long answer; long_prompts: how many there are.
    window      of a long answer: tokens that an average is over.
    """

    own_tokens: int
    minutes: float
    judged: int
    tokens: int
    long: int
    long_prompts: int
    window: int
    ahead: int = 5
    drafted: int = 4096
    nodes: int = 16
    steps: int | None = None


SCALES = {
    "full": Scale(2_000_000, 60, judged=10, tokens=128, long=4000, long_prompts=6, window=500),
    "hours": Scale(400_000, 8, judged=2, tokens=128, long=4000, long_prompts=2, window=1000),
    "smoke": Scale(
        400, 0, judged=1, tokens=10, long=24, long_prompts=1, window=8, ahead=3, drafted=64, nodes=4, steps=4
    ),
}
