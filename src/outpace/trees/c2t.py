"""C2T's tree: grows while a small classifier expects its nodes to be kept, and needs no ranking afterwards.

Huo et al. 2025, "C2T: A Classifier-Based Tree Construction Method in Speculative Decoding", arXiv:2502.13652.
EAGLE-2 knows a node's joint probability alone; the classifier (`heads/c2t.py`) also sees how unsure the
drafter was, and how deep the node lies.

    expand  all nodes of the last level, up to `depth` levels
    grow    of the children of all of them, the `k` of the highest joint probability; of these, those whose
            confidence is `beta` or more
    prune   nothing, within the budget; beyond it, the nodes of the lowest joint probability

With k = 1 it is a chain that ends where the confidence falls below `beta`. The draw is a "point" draw: which
nodes stay depends on the tokens drawn.

Deviation. The paper can keep fewer of a level by a second top-k, of confidences: with one k for both that
changes nothing, and it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from outpace.core.options import checked, sizes, within
from outpace.core.steps import Candidates
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.heads.c2t import Classifier, features_of, read_c2t
from outpace.trees.dynamic import joint
from outpace.trees.level import hang, last_level, level_of
from outpace.trees.template import best

PACKAGED = Path(__file__).parent / "c2t_classifier"


class C2T:
    """Nodes that a classifier gives a chance of `beta` or more to be kept: at most `k` of each level."""

    traits = Traits(keeps_draw=False)

    def __init__(self, classifier: Classifier, *, beta: float = 0.1, k: int = 10, depth: int = 8) -> None:
        sizes("c2t", k=k, depth=depth)
        within("c2t", 0, 1, beta=beta)
        self._classifier = classifier
        self.beta = beta
        self.width = k
        self.depth = depth

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The last level: what it holds has passed."""
        return last_level(tree, self.depth)

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """The candidates that pass; the same tree where none does."""
        level, places = level_of(tree, candidates, self.width)
        features = features_of(level.joint, level.entropy, level.depth)
        return hang(tree, candidates, places[self._classifier(features) >= self.beta])

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The likeliest nodes, where there is no room for all."""
        return tree if tree.num_nodes - 1 <= budget else tree.prune(best(joint(tree), 1 + budget))


@checked
def c2t(*, path: str = "auto", beta: float = 0.1, k: int = 10, depth: int = 8) -> C2T:
    """From the folder of a classifier; "auto" for the one that comes with the package."""
    return C2T(read_c2t(PACKAGED if path == "auto" else path), beta=beta, k=k, depth=depth)
