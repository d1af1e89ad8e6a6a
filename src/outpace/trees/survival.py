"""Trees that learn which of their nodes are kept: a prior, corrected by the verdicts of earlier steps.

C2T's idea (Huo et al. 2025, arXiv:2502.13652) without its training: the chance of a node is estimated while
texts are written (`pricing/survival.py`), so it is that of this drafter, target and text.

    expand  all nodes of the last level, up to `depth` levels
    grow    of the children of all of them, the `k` of the highest joint probability; of these, those that are
            worth their place (`pricing/worth.py`): a chance of `beta` or more, or more tokens than time
    prune   nothing, within the budget; beyond it, the nodes of the lowest joint probability
    learn   of each of these k whose parent was scored it is known whether the text went on with it, hung or
            not. So the estimate is of all that it decides about, and what it drops is no blind spot

The prior is the joint probability in the drafter's view, or what C2T's classifier says. The draw is a "point"
draw: which nodes stay depends on the tokens drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import OutpaceError
from outpace.core.options import MOST_SIZE, checked, shown, sizes, within
from outpace.core.steps import Candidates
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.heads.c2t import FLOOR, Classifier, features_of, read_c2t
from outpace.pricing.costs import CallCosts
from outpace.pricing.survival import Survival, logit
from outpace.pricing.worth import AtLeast, Priced, Worth
from outpace.trees.c2t import PACKAGED
from outpace.trees.dynamic import joint
from outpace.trees.level import Floats, Level, hang, last_level, level_of
from outpace.trees.template import best

NUM_FEATURES = 3

Prior = Callable[[Level], Floats]
"""f[n]: the chances of a level's candidates, before anything has been seen."""


def neutral(level: Level) -> Floats:
    """The drafter's own view."""
    chance: Floats = np.exp(np.maximum(level.joint, FLOOR))
    return chance


def trained(classifier: Classifier) -> Prior:
    """A classifier's view."""
    return lambda level: classifier(features_of(level.joint, level.entropy, level.depth))


def features(level: Level) -> Floats:
    """f[n, 3], all about one: log-probability after the parent, entropy of its law, log of the depth."""
    own = np.maximum(level.own, FLOOR)
    return np.stack([own / 3, level.entropy / 3, np.log(level.depth)], axis=1)


class SurvivalTree:
    """Nodes that are worth their place, as far as has been learnt: at most `k` of each level."""

    traits = Traits(keeps_draw=False)

    def __init__(self, worth: Worth, prior: Prior = neutral, *, k: int = 10, depth: int = 8) -> None:
        sizes("survival", k=k, depth=depth)
        self.worth = worth
        self.prior = prior
        self.width = k
        self.depth = depth
        self.estimate = Survival(NUM_FEATURES)
        self.traits = replace(self.traits, paced=worth.paced)

    def begin(self) -> Growing:
        """See `Learning`."""
        return Growing(self)

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The last level: what it holds has passed."""
        return last_level(tree, self.depth)

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """As a tree whose earlier levels nobody has noted."""
        return self.begin().grow(tree, candidates)

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The likeliest nodes, where there is no room for all."""
        return tree if tree.num_nodes - 1 <= budget else tree.prune(best(joint(tree), 1 + budget))


class Judged(NamedTuple):
    """Candidates of a level, and what the estimate has read of them."""

    parents: NDArray[np.integer]
    tokens: NDArray[np.integer]
    prior: Floats
    features: Floats


class Growing:
    """One tree of a policy: all that it has looked at, and the tokens that are expected of it."""

    traits = SurvivalTree.traits

    def __init__(self, policy: SurvivalTree) -> None:
        self._policy = policy
        self._levels: list[Judged] = []
        self._whole: TokenTree | None = None  # before it was pruned
        self._gained = self._expected = 1.0  # of the last level, and of the whole call
        self.width = policy.width

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The last level, if it is worth another."""
        go_on = self._policy.worth.goes_on(self._gained, self._expected)
        return self._policy.expand(tree) if go_on else []

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """The candidates that are worth it; the same tree where none is."""
        policy = self._policy
        level, places = level_of(tree, candidates, self.width)
        judged = Judged(level.parents, level.tokens, logit(policy.prior(level)), features(level))
        chance = policy.estimate.chance(judged.prior, judged.features)
        passed = policy.worth.passes(chance, tree.num_nodes, self._expected)
        self._levels.append(judged)
        self._gained = float(chance[passed].sum())
        self._expected += self._gained
        return hang(tree, candidates, places[passed])

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The likeliest nodes, where there is no room for all."""
        self._whole = tree
        return self._policy.prune(tree, budget)

    def learn(self, scored: TokenTree, tokens: Sequence[int]) -> None:
        """What became of the candidates whose parents were scored."""
        if self._whole is None or not self._levels:
            return
        judged = Judged(*map(np.concatenate, zip(*self._levels, strict=True)))
        kept = tokens_after(self._whole, tokens)[judged.parents] == judged.tokens
        known = are_in(scored, self._whole)[judged.parents]
        self._policy.estimate.learn(judged.prior[known], judged.features[known], kept[known])


def are_in(scored: TokenTree, tree: TokenTree) -> NDArray[np.bool_]:
    """bool[N]: which nodes of a tree another one has, which may lack some and have others."""
    if scored.token_list == tree.token_list and scored.shape.parent_list == tree.shape.parent_list:
        return np.ones(tree.num_nodes, np.bool_)
    places = [0]
    for token, parent in zip(tree.token_list[1:], tree.shape.parent_list[1:], strict=True):
        places.append(scored.child(places[parent], token) if places[parent] >= 0 else -1)
    return np.array(places) >= 0


def tokens_after(tree: TokenTree, tokens: Sequence[int]) -> NDArray[np.int64]:
    """i64[N]: the token that came after each node of a tree; -1 where the text did not go."""
    after, node = np.full(tree.num_nodes, -1, np.int64), 0
    for token in tokens:
        after[node] = token
        node = tree.child(node, token)
        if node < 0:
            break
    return after


@checked
def survival(
    *,
    beta: str = "0.1",
    prior: str = "none",
    k: int = 10,
    depth: int = 8,
    draft_cost: float = 0.3,
    costs: Callable[[], CallCosts] | None = None,
) -> SurvivalTree:
    """From names.

    beta        the least chance of a node to be kept; "auto": more tokens than time.
    prior       "none", the drafter's own view; "c2t", the classifier in the package; or the folder of one.
    draft_cost  what a level costs to draft, in calls of the target for one token, where beta is auto.
    """
    within("survival", 0, draft_cost=draft_cost)
    before = neutral if prior == "none" else trained(read_c2t(PACKAGED if prior == "c2t" else prior))
    if beta != "auto":
        return SurvivalTree(AtLeast(_chance(beta)), before, k=k, depth=depth)
    if costs is None:
        raise OutpaceError(
            "survival has beta=auto and no costs of a target, accepted are numbers from 0 to 1"
        )
    sizes("survival", k=k, depth=depth)
    return SurvivalTree(Priced(costs, draft_cost, min(1 + k * depth, MOST_SIZE)), before, k=k, depth=depth)


def _chance(text: str) -> float:
    try:
        beta = float(text)
    except ValueError:
        beta = -1.0
    if not 0 <= beta <= 1:
        raise OutpaceError(f"survival has beta={shown(text)}, accepted are numbers from 0 to 1, auto")
    return beta
