"""How large the experiment is: pairs of a model and a drafter, prompts, sweeps.

On two cores, in minutes, with the models of the report (1.5 billion weights, and 0.5 to draft):

                          full      hours
    prompts                 20          5
    full trees             130         25
    classifiers              5          2
    evaluation             275         69
"""

from __future__ import annotations

from dataclasses import dataclass

from outpace.heads.c2t import FEATURES

Features = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """What a run consists of.

    k, depth   nodes of a level and children of each, and levels: of all trees.
    prompts    that the models make up themselves, to train on; `written` tokens from each. The first
               `adapted` of the second pair's are for the classifier that goes on from the first pair's.
    judged     prompts of each category to be judged by, and tokens from each.
    sizes      of EAGLE-2's trees. betas: of C2T's; few: of those that other classifiers shape, and of chains.
    ablation   sets of features, beside all of them.
    online     betas of trees that learn while they write, after `warm` steps of the prompts trained on.
    """

    k: int = 10
    depth: int = 8
    prompts: int = 40
    written: int = 64
    adapted: int = 4
    epochs: int = 20
    judged: int = 1
    tokens: int = 48
    sizes: tuple[int, ...] = (4, 8, 16, 32, 48)
    betas: tuple[float, ...] = (0.01, 0.03, 0.08, 0.2, 0.4)
    few: tuple[float, ...] = (0.03, 0.08, 0.2)
    lengths: tuple[int, ...] = (1, 2, 4, 6)
    ablation: tuple[Features, ...] = (("joint", "entropy"), ("joint", "depth"), ("entropy", "depth"))
    online: tuple[float, ...] = (0.08, 0.2)
    warm: int = 2000


SCALES = {
    "full": Scale(prompts=300, adapted=30, judged=5, tokens=96),
    "hours": Scale(),
    "smoke": Scale(
        k=3,
        depth=3,
        prompts=4,
        written=24,
        adapted=2,
        epochs=2,
        tokens=12,
        sizes=(2, 6),
        betas=(0.05, 0.3),
        few=(0.05,),
        lengths=(1, 3),
        ablation=(("joint", "depth"),),
        online=(0.05, 0.3),
        warm=50,
    ),
}
ALL: Features = FEATURES
