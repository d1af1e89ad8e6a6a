"""The one growth loop: a step function of a model and a TreePolicy make a tree for each row.

At each level the policy names the nodes to expand, the step function gives their logits, candidates are
drawn, and the policy hangs those that it wants.

Where the rule reads laws (`Ask.law`), `Ask.draw` says how candidates are drawn. The noise is a function of
seed, root and node, and new for every root: a rule may reject a draft for what comes after it (block
verification), and noise that has been looked at must not decide again.

    iid                  argmax of log q + noise, once per candidate
    without_replacement  the largest of log q + noise: successive draws without replacement (Gumbel top-k:
                         Vieira 2014; Kool, van Hoof & Welling 2019, arXiv:1903.06059)
    hub                  SpecHub's pair: one draw x; the other is the likeliest token a, or, if x = a, a
                         second draw without a (Sun et al. 2024, arXiv:2411.05289)

At temperature 0, and where the rule reads nothing but the target's choices, a "point" draw: the tokens most
likely to be that choice. It is the argmax of l + T g over the logits l, and the noise g is known; what is not
known is how far the draft's logits are off. If that is about one unit (Gumbel noise of scale 1), a token is
chosen with probability softmax(l + T g): at T = 0 the plain softmax, which is known to be calibrated
(EAGLE-2, Li et al. 2024, arXiv:2406.16858). Policies that weigh nodes weigh them by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Growth, Learning, TreePolicy
from outpace.core.edits import edited, known_edit
from outpace.core.sampling import Sampling, fresh_seed, gumbel, survivors, warp
from outpace.core.steps import Ask, Candidates
from outpace.core.traits import Paced, Traits, check_traits
from outpace.core.tree import Draw, TokenTree

Logits = NDArray[np.floating]
StepFunction = Callable[
    [Sequence[int], Sequence[TokenTree], Sequence[Sequence[int]]], Sequence[Logits | None]
]
"""(rows, their trees, per tree the nodes to expand) -> per row the drafter's raw logits f32[F, V] there.

None for a row that the drafter cannot run: its tree stays as it is."""

PickFunction = Callable[
    [Sequence[int], Sequence[TokenTree], Sequence[Sequence[int]], int],
    Sequence[Sequence[Sequence[int]] | None],
]
"""The same with the number of tokens wanted after each node -> per row and node the tokens that a "point"
draw would take from the logits, best first, which may be far cheaper to get."""


STRIDE = 64  # of logits that are looked at to tell a trimmed vocabulary

EVERY_DRAW: frozenset[Draw] = frozenset({"iid", "without_replacement", "hub"})


def traits_of(policy: TreePolicy, *, own: bool) -> Traits:
    """Those of a drafter that has a law and grows its trees by a policy.

    own  whether the policy is the drafter's own; see `paced_by` for one that somebody names.
    """
    check_traits(policy)  # it may be another package's
    draws = EVERY_DRAW if policy.traits.keeps_draw else frozenset[Draw]()
    return Traits(
        draws=draws,
        branches=policy.width > 1,
        paced="always" if own or policy.traits.stops else paced_by(policy),
        stops=policy.traits.stops,
    )


def paced_by(policy: TreePolicy) -> Paced:
    """When a drafter is paced whose shape somebody has named: never, unless that is to follow what pays."""
    return "always" if policy.traits.paced == "always" else "never"


def grow_trees(
    asks: Sequence[Ask], policy: TreePolicy, step: StepFunction, *, pick: PickFunction | None = None
) -> list[TokenTree]:
    """A tree for each ask, within its budget and depth; `step` is called once per level for all rows.

    `pick` stands in for `step` where nobody reads more than tokens: neither the rules nor the policy, and no
    row has an edit. A policy that learns is told by the loop what became of each tree.
    """
    growths: list[Growth] = [policy.begin() for _ in asks] if isinstance(policy, Learning) else []
    policies: Sequence[TreePolicy] = growths or [policy] * len(asks)
    trees = [TokenTree.root(ask.root) for ask in asks]
    rows = [row for row, ask in enumerate(asks) if ask.budget > 0]
    stops = [ask.min_p if policy.traits.stops else None for ask in asks]
    if policy.traits.reads_logq or any(ask.law or ask.edit is not None for ask in asks):
        pick = None
    while True:
        expanded = {
            row: policies[row].expand(trees[row]) for row in rows if trees[row].shape.height < asks[row].depth
        }
        rows = [row for row, nodes in expanded.items() if nodes]
        if not rows:
            break
        nodes = [expanded[row] for row in rows]
        before = [trees[row] for row in rows]
        if pick is not None:
            picked = pick(rows, before, nodes, policy.width)
            drawn = [_picked(*pair, policy.width) for pair in zip(nodes, picked, strict=True)]
        else:
            drawn = [
                after
                if after is None
                else draw_candidates(trees[row], expanded[row], after, asks[row], policy.width)
                for row, after in zip(rows, step(rows, before, nodes), strict=True)
            ]
        for row, candidates in zip(rows, drawn, strict=True):
            stop = stops[row] or 0.0
            if candidates is not None and (stop == 0 or _sureness(candidates) >= stop):
                trees[row] = policies[row].grow(trees[row], candidates)
        rows = [row for row, tree in zip(rows, before, strict=True) if trees[row] is not tree]
    grown = [one.prune(tree, ask.budget) for one, tree, ask in zip(policies, trees, asks, strict=True)]
    if growths:
        for tree, growth in zip(grown, growths, strict=True):
            tree.learn = growth.learn
    return grown


def _sureness(candidates: Candidates) -> float:
    """The largest probability of a token after any of the nodes, whichever was drawn."""
    if candidates.draw == "point":
        return float(np.exp(candidates.logq[:, 0].max()))
    return max(float(law.max()) for law in candidates.laws)


def draw_candidates(
    tree: TokenTree, nodes: Sequence[int], logits: Logits, ask: Ask, width: int
) -> Candidates:
    """`width` tokens after each of `nodes`, from raw logits f32[F, V]; fewer where the law has fewer."""
    point = ask.sampling.temperature == 0 or not ask.law or ask.draw == "point"
    tokens = np.zeros((len(nodes), width), np.int32)
    logq = np.full((len(nodes), width), -np.inf, np.float32)
    laws: list[NDArray[np.floating]] = []
    for f, node in enumerate(nodes):
        after = logits[f]
        if ask.edit is not None:
            edit = ask.edit([tree.token_list[one] for one in tree.path_to(node)[1:]])
            after = edited(after, known_edit(edit))
            if not after.max() > -np.inf:  # nothing may follow, as behind the end of a grammar's text
                laws.append(np.zeros(len(after)))
                continue
        position = ask.position + tree.shape.depths[node] + 1
        if point:
            drawn, law = point_law(after, ask.sampling, position, width)
        else:
            law = warp(after, ask.sampling)
            drawn = _drawn(law, ask, position, node, width)
        drawn = drawn[law[drawn] > 0]
        tokens[f, : len(drawn)] = drawn
        logq[f, : len(drawn)] = np.log(law[drawn])
        laws.append(law)
    return Candidates(nodes, tokens, logq, laws, "point" if point else ask.draw)


def _picked(nodes: Sequence[int], picked: Sequence[Sequence[int]] | None, width: int) -> Candidates | None:
    if picked is None:
        return None
    tokens = np.zeros((len(nodes), width), np.int32)
    logq = np.full((len(nodes), width), -np.inf, np.float32)
    for f, chosen in enumerate(picked):
        tokens[f, : len(chosen)] = chosen
        logq[f, : len(chosen)] = 0.0
    return Candidates(nodes, tokens, logq, [], "point")


def point_law(
    logits: Logits,
    sampling: Sampling,
    position: int,
    width: int,
    token_ids: NDArray[np.integer] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """The tokens most likely to be the target's choice, and for every token how likely that is: f32[V].

    `token_ids` says which tokens the logits are of, where they are not of all; results count in logits.
    """
    # Of a trimmed vocabulary most are minus infinity, which a few of them tell.
    if token_ids is None and 2 * STRIDE * np.count_nonzero(np.isneginf(logits[::STRIDE])) > len(logits):
        some = np.flatnonzero(logits > -np.inf)
        if len(some):
            drawn, odds = point_law(logits[some], sampling, position, width, some)
            law = np.zeros(len(logits), odds.dtype)
            law[some] = odds
            return some[drawn], law
    if sampling.temperature == 0:
        odds = np.exp(logits - logits.max())
        return _best(np.arange(len(logits)), logits, width), odds / odds.sum()
    kept = survivors(logits, sampling)
    with np.errstate(over="ignore"):  # no temperature is too low
        scaled = (logits[kept].astype(np.float64) - logits.max()) / sampling.temperature
    noisy = scaled + gumbel(sampling.seed, position, kept if token_ids is None else token_ids[kept])
    weight = np.exp(sampling.temperature * (noisy - noisy.max()))
    law = np.zeros(len(logits), np.float32)
    law[kept] = weight / weight.sum()
    return _best(kept, noisy, width), law


def _drawn(law: NDArray[np.floating], ask: Ask, position: int, node: int, width: int) -> NDArray[np.int64]:
    """The children of a node as `ask.draw` wants them, from a law f64[V]."""
    support = np.flatnonzero(law)
    logq = np.log(law[support])

    def fresh(purpose: str) -> NDArray[np.float64]:
        seed = fresh_seed(ask.sampling.seed, purpose, ask.position, node)
        noisy: NDArray[np.float64] = logq + gumbel(seed, position, support)
        return noisy

    if ask.draw == "without_replacement":
        return _best(support, fresh("draft 0"), width)
    if ask.draw == "iid":
        return np.array([support[np.argmax(fresh(f"draft {k}"))] for k in range(width)])
    assert ask.draw == "hub", f"no way to draw {ask.draw!r}"
    first, second = _best(support, fresh("draft 0"), 2)[[0, -1]]
    likeliest = support[np.argmax(logq)]
    pair = [first, second if first == likeliest else likeliest]
    return np.array(pair[: min(width, len(support))])


def _best(tokens: NDArray[np.int64], scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """The k tokens of the highest scores, best first, lower id on ties."""
    if k == 1:
        return tokens[[np.argmax(scores)]]
    if k < len(tokens):
        kept = np.sort(np.argpartition(-scores, k - 1)[:k])
        # argpartition may drop the lower id of two that tie for the last place; logits that tie are rare.
        tokens, scores = tokens[kept], scores[kept]
    return tokens[np.argsort(-scores, kind="stable")]
