"""The contracts: Target, Drafter, TreePolicy, Rule, and what passes between them.

One loop (`decode/step.py`) uses them: propose, score, judge, keep, observe. Everything is plural (rows,
trees, states) except Rule and TreePolicy, which see one row. State is a value that is passed; nothing hides
on `self`. Shapes: N nodes of a tree, V vocabulary, D width of a hidden state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from outpace.core.products import Product
from outpace.core.sampling import Edit, Sampling, edited, warp
from outpace.core.tree import Draw, TokenTree

Exactness = Literal["identical", "distribution", "lossy"]
"""The strongest promise first: plain decoding's tokens for the same seed; its law on other paths; neither."""

Editor = Callable[[TokenTree], Sequence[Edit | None]]
"""Penalties, grammars, bans: what to add to the logits after each node, given the path to the node."""


def weakest(*promises: Exactness) -> Exactness:
    """The promise that is left when several parts make these."""
    return max(promises, key=get_args(Exactness).index)


@dataclass(frozen=True, slots=True)
class Ask:
    """What the loop wants for one row: where a proposal starts, and what it may cost and look like.

    root      the last committed token; the proposed tree's node 0 must carry it.
    position  the root's absolute position, which is also the number of the row's cached tokens.
    sampling  how the target will choose; a drafter that knows its own law adds the same noise.
    budget    at most so many drafted nodes (the root is free); the loop cuts off what goes beyond.
    depth     at most so many levels below the root: as many as could still be kept.
    edits     the row's logit edits, or None.
    row       the row's number at the target. A drafter that is made of the target itself may `fork` it, or
              `score` or `run` on it; it never keeps or frees it.
    draw      how a drafter that has a law of its own should choose the children of a node; the rule's wish.
    law       whether the rule reads the laws that drafts are drawn from. Where not, a drafter may leave them
              out and choose as seems best to it: a "point" tree.
    top       how many of the likeliest tokens after each node the drafter will ask for (its `reads_top`).
    """

    root: int
    position: int
    sampling: Sampling
    budget: int
    depth: int
    edits: Editor | None = None
    row: int = -1
    draw: Draw = "without_replacement"
    law: bool = True
    top: int = 0


class Scores(Protocol):
    """The target's answer to one call: every row of the call, N_r nodes for row r.

    Valid until the next `prefill` or `score` of the same target; `keep`, `fork` and `free` do not touch it.
    Computed where the logits live; they move only when somebody asks.
    """

    def choose(
        self,
        samplings: Sequence[Sampling],
        positions: Sequence[int],
        edits: Sequence[Sequence[Edit | None] | None] | None = None,
        top: int = 0,
    ) -> list[list[int]]:
        """The target's own choice after every node, as Python ints, one list per row.

        `positions` are those of the rows' roots: the choice after a node of depth d has the noise of
        position + d + 1. `edits`, per row and node, are added to the raw logits first. `top` announces that
        `Scores.top` will be asked for so many, which is cheap to find on the way.
        """

    def logits(self, row: int, nodes: Sequence[int]) -> NDArray[np.float32]:
        """f32[n, V]: raw logits (no edits, no temperature) after these nodes; the caller's own copy."""

    def law(self, row: int, node: int, sampling: Sampling) -> NDArray[np.floating]:
        """[V]: the law of the choice after a node, without edits; the caller's own copy."""

    def top(self, row: int, nodes: Sequence[int], k: int) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
        """([n, k] ids, [n, k] raw logits): the likeliest tokens after nodes, lower id first on ties."""

    def hidden(self, tap: str) -> NDArray[np.float32]:
        """f32[sum of N_r, D]: hidden states at a tap, rows after one another."""


class RowScores:
    """One row's view of a call's scores, edits applied: all that a rule or a drafter sees of them."""

    __slots__ = ("_call", "_row")

    def __init__(self, call: ScoredCall, row: int) -> None:
        self._call = call
        self._row = row

    @property
    def choices(self) -> list[int]:
        """The target's own choice after every node. A call's first reader computes those of all its rows."""
        return self._call.choices()[self._row]

    def logits(self, nodes: Sequence[int]) -> NDArray[np.float32]:
        """f32[n, V]: raw logits after these nodes, without edits."""
        return self._call.scores.logits(self._row, nodes)

    def law(self, node: int, sampling: Sampling) -> NDArray[np.floating]:
        """[V]: the law of the target's choice after a node, edits included."""
        edits = self._call.edits[self._row]
        if edits is None or edits[node] is None:
            return self._call.scores.law(self._row, node, sampling)
        return warp(edited(self.logits([node])[0], edits[node]), sampling)

    def top(self, nodes: Sequence[int], k: int) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
        """([n, k] ids, [n, k] raw logits) of the likeliest tokens after nodes, without edits."""
        return self._call.scores.top(self._row, nodes, k)

    def hidden(self, tap: str) -> NDArray[np.float32]:
        """f32[N, D]: hidden states of this row's nodes at a tap."""
        start = sum(tree.num_nodes for tree in self._call.trees[: self._row])
        return self._call.scores.hidden(tap)[start : start + self._call.trees[self._row].num_nodes]


class ScoredCall:
    """A call's scores together with what its choices depend on, so that one `choose` serves all rows.

    This is the one place where logit edits enter.
    """

    __slots__ = ("_choices", "asks", "edits", "scores", "trees")

    def __init__(self, scores: Scores, trees: Sequence[TokenTree], asks: Sequence[Ask]) -> None:
        self.scores = scores
        self.trees = trees
        self.asks = asks
        self.edits = [ask.edits and ask.edits(tree) for tree, ask in zip(trees, asks, strict=True)]
        self._choices: list[list[int]] | None = None

    def choices(self) -> list[list[int]]:
        """Per row, the target's choice after every node."""
        if self._choices is None:
            samplings = [ask.sampling for ask in self.asks]
            positions = [ask.position for ask in self.asks]
            edits = None if all(row is None for row in self.edits) else self.edits
            top = max(ask.top for ask in self.asks)
            self._choices = self.scores.choose(samplings, positions, edits, top)
        return self._choices

    def rows(self) -> list[RowScores]:
        """A view for each row."""
        return [RowScores(self, row) for row in range(len(self.trees))]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule's judgement: `path` are the ids of the nodes kept after the root, `token` is the one more."""

    path: Sequence[int]
    token: int
    exactness: Exactness


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one row: all that a drafter may learn from. `scores` dies with the target's next call."""

    tree: TokenTree
    scores: RowScores
    verdict: Verdict

    @property
    def tokens(self) -> list[int]:
        """The tokens that the step commits: the kept drafts and the one more."""
        tokens = self.tree.token_list
        return [*[tokens[node] for node in self.verdict.path], self.verdict.token]


class Target(Protocol):
    """The model whose output must be reproduced, with a cache of rows.

    It sees one step at a time, whatever threads ask: the loop holds `core.turns.turns_of(target)` meanwhile.
    A row is the place of one sequence. It holds the keys and values of `length(row)` tokens; the root of
    the next tree sits at that position. Rows belong to whoever got them from `prefill` or `fork` until they
    give them to `free`. Between `score` and `keep` a row also holds the scored nodes; the next `score`
    forgets those not kept.
    """

    @property
    def vocab_size(self) -> int:
        """Token ids are 0 to vocab_size - 1."""

    @property
    def context_length(self) -> int:
        """The most tokens that a row can hold, scored nodes included."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text."""

    @property
    def exactness(self) -> Exactness:
        """What `score` promises: "identical" if a node's logits ignore its companions in the call."""

    def prefill(
        self, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]] | None = None
    ) -> tuple[list[int], Scores]:
        """Cache the prompts in new rows. The scores have one node per prompt: its last token.

        With `drafts` it is the root of a chain of them, all scored; rows have what is before it until `keep`.
        """

    def score(self, rows: Sequence[int], trees: Sequence[TokenTree]) -> Scores:
        """Run every node of every tree in one call; nothing is committed."""

    def keep(self, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        """Commit the roots of the last `score` of these rows and the given nodes after them."""

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens."""

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back."""

    def length(self, row: int) -> int:
        """How many tokens the row has cached."""


@runtime_checkable
class Layered(Target, Protocol):
    """A target that can run a part of itself, for drafters made of nothing else.

    Its sublayers have numbers: 2l is the attention of layer l, 2l + 1 its feed-forward.
    """

    @property
    def num_layers(self) -> int:
        """How many layers it has."""

    def run(
        self,
        rows: Sequence[int],
        trees: Sequence[TokenTree],
        *,
        layers: int | None = None,
        skip: Collection[int] = (),
    ) -> Scores:
        """As `score`, through the first `layers` layers alone (None: all) and without the sublayers `skip`.

        The scores are what the last norm and the output matrix make of the state reached. Nothing can be
        kept. A row's next `run` or `score` goes on from here if its part goes on from this one: the nodes
        that it has again (tokens and parents in this order, others may stand between) are not run again
        through these layers. No bit depends on it, and any other use of the row forgets.
        """


@runtime_checkable
class Tapped(Target, Protocol):
    """A target whose hidden states can be had, for drafters that are trained on them."""

    @property
    def hidden_size(self) -> int:
        """D."""

    def fingerprint(self) -> str:
        """Names the weights: what is trained on one model's states is of no use to another."""

    def tap(self, *names: str) -> None:
        """From the next call on `Scores.hidden` offers these taps too: "final", a layer's number."""

    def product(self, weight: NDArray[np.float32]) -> Product:
        """A matrix f32[M, K] of the caller's, which need not have the model's width."""

    def projection(self, token_ids: NDArray[np.integer] | None = None) -> Product:
        """The output matrix, or these rows of it: logits (biases and caps included) of states at "final"."""


class Drafter(Protocol):
    """Proposes continuations. Can never change the output of an exact rule, only the speed.

    A state belongs to the caller and goes through `start`, then any number of `observe` and `propose`, then
    `stop`. Methods may change the state they are given in place and return it. The prompt's own call is a
    step too: after `start` comes an `observe` of a root-only tree on the prompt's last token, whose verdict
    is the first new token; or, of a drafter that `opens`, a `propose` and its first path.

    Five attributes are optional:
    draws      frozenset of the draws that it serves beside "point"; absent: none, it has no law of its own.
    reads_top  the largest k that it asks `RowScores.top` for; absent: 0.
    branches   whether it may propose more than a chain; absent: False.
    opens      whether it can propose after a `start` without scores (None), with no row yet; absent: False.
    fork       a method: state -> a second state of the same row, for a continuation that may come to nothing.
               It is stopped like any other and must leave no trace; absent: no cascade can be built on it.
    """

    def start(self, prompt: Sequence[int], scores: RowScores) -> Any:
        """The state for a new row. `scores` has one node: the prompt's last token."""

    def propose(self, states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree on ask.root for each row. A root-only tree is a valid answer."""

    def observe(self, states: Sequence[Any], steps: Sequence[Step]) -> list[Any]:
        """The states after these steps, one step for each row."""

    def stop(self, state: Any) -> None:
        """Give back what the state holds."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What may be hung on a tree: for F of its nodes, K tokens each in the order of their draw.

    nodes   the F nodes, ascending.
    tokens  i32[F, K]; logq f32[F, K]: log-probabilities under the law, -inf where there is no such token.
    laws    F laws f32[V] or f64[V], the drafter's after each node. Drawn from, they are those of the row's
            sampling. In a "point" draw they tell what the target's choice will be, in the drafter's view, and
            are missing (an empty list, and logq 0) where neither rule nor policy reads them.
    draw    how the tokens were drawn from the laws.
    """

    nodes: Sequence[int]
    tokens: NDArray[np.int32]
    logq: NDArray[np.float32]
    laws: Sequence[NDArray[np.floating]]
    draw: Draw

    def hang(self, tree: TokenTree, counts: Sequence[int]) -> TokenTree:
        """The tree with the first counts[f] tokens of each node as its children, node by node.

        Counts may depend on the paths to the nodes and on their laws. Counts that depend on the tokens drawn
        here bias the draw: such a policy has to hang them all and `TokenTree.prune` the tree afterwards.
        """
        places = [(f, k) for f, count in enumerate(counts) for k in range(count) if self.logq[f, k] > -np.inf]
        return tree.extend(
            [self.nodes[f] for f, _ in places],
            [int(self.tokens[place]) for place in places],
            logq=[float(self.logq[place]) for place in places] if self.laws else None,
            laws={} if self.draw == "point" else dict(zip(self.nodes, self.laws, strict=True)),
            draw=self.draw,
        )


class TreePolicy(Protocol):
    """Where a model-based drafter spends its budget; knows no model and keeps no state.

    The growth loop (`trees/grow.py`) asks in turns which nodes to expand, has the drafter's model score them,
    draws `width` candidates after each, and lets the policy hang what it wants. At the end it prunes, always.

    Two attributes are optional:
    reads_logq  whether it looks at log-probabilities or laws; absent: True. Who does not spares their price.
    keeps_draw  whether its trees serve rules that read laws; absent: True. A policy that takes or leaves
                nodes for the tokens that were drawn does not: its trees have a "point" draw, always.
    """

    @property
    def width(self) -> int:
        """The most children of one node."""

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The nodes, ascending, whose children are wanted next; none has any yet. [] when grown enough."""

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """The tree with some of the candidates hung on it; unchanged nodes keep their ids."""

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The tree with at most `budget` drafted nodes."""


class Rule(Protocol):
    """Looks at a tree and the target's scores of one row and returns what to commit. Pure."""

    @property
    def exactness(self) -> Exactness:
        """What the rule promises for a target that is "identical"."""

    @property
    def draw(self) -> Draw:
        """The draw of the trees that it is made for. Others are judged by the target's choices."""

    @property
    def needs_law(self) -> bool:
        """Whether it is of no use without the drafter's law."""

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """`position` is the absolute position of the root; randomness is a pure function of the arguments."""
