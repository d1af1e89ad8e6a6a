"""What passes between the parts in a step: Ask, Scores, Verdict, Step, Candidates.

Shapes: N nodes of a tree, V vocabulary, D width of a hidden state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, overload

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Call
from outpace.core.edits import AnyEdit, ComputedEdit, Edit, EditAfter, Forcing, edited, edits_of
from outpace.core.sampling import NO_CHOICE, Sampling, choose, warp
from outpace.core.tree import Draw, TokenTree

Exactness = Literal["identical", "distribution", "lossy"]
"""The strongest promise first: plain decoding's tokens for the same seed; its law on other paths; neither."""


def weakest(*promises: Exactness) -> Exactness:
    """The promise that is left when several parts make these."""
    return max(promises, key=get_args(Exactness).index)


@dataclass(frozen=True, slots=True)
class Ask:
    """What the loop wants for one row: where a proposal starts, and what it may cost and look like.

    root      the last committed token; the proposed tree's node 0 must carry it.
    position  the root's absolute position.
    sampling  how the target will choose; a drafter that knows its own law adds the same noise.
    budget    at most so many drafted nodes (the root is free); the loop cuts off what goes beyond.
    depth     at most so many levels below the root: as many as could still be kept.
    edit      the row's edit of the logits after a path below the root, or None.
    row       the row's number at the target. A drafter that is made of the target itself may `fork` it, or
              `score` or `run` on it, if nothing is `unread`; it never keeps or frees it.
    draw      how a drafter that has a law of its own should choose the children of a node; the rule's wish.
    law       whether the rule reads the laws that drafts are drawn from. Where not, a drafter may leave them
              out and choose as seems best to it: a "point" tree.
    min_p     for a drafter that `stops`: it ends its tree before the first level that holds no token of this
              probability, and gives log-probabilities. None: it does as it likes.
    top       how many of the likeliest tokens after each node the drafter will ask for (its `reads_top`).
    unread    committed tokens before the root that the row's cache does not hold yet, such as a prompt: the
              call reads them too.
    """

    root: int
    position: int
    sampling: Sampling
    budget: int
    depth: int
    edit: EditAfter | None = None
    row: int = -1
    draw: Draw = "without_replacement"
    law: bool = True
    top: int = 0
    unread: Sequence[int] = ()
    min_p: float | None = None

    @property
    def known(self) -> Sequence[int]:
        """Tokens that a grammar leaves no choice about, behind the root: as many as may be drafted.

        A drafter that `goes_on` hangs its tree behind them, and they are a part of it.
        """
        if self.edit is None or not isinstance(self.edit, Forcing):
            return ()
        return self.edit.forced(())[: max(0, min(self.budget, self.depth))]

    def call(self, tree: TokenTree) -> Call:
        """What the row runs to have a proposed tree scored."""
        return Call(self.row, [*self.unread, self.root], tree)


class Scores(Protocol):
    """The target's answer to one call: every row of the call, N_r nodes for row r.

    Valid until the next `score` of the same target; `keep`, `fork` and `free` do not touch it.
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
        position + d + 1. `edits`, per row and node, change the raw logits first. `top` announces that
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

    def read(self, row: int, tap: str) -> NDArray[np.float32]:
        """f32[P - 1, D]: those of the row's pending tokens before the root."""


class RowScores:
    """One row's view of a call's scores, edits applied: all that a rule or a drafter sees of them."""

    __slots__ = ("_call", "_row")

    def __init__(self, call: ScoredCall, row: int) -> None:
        self._call = call
        self._row = row

    @property
    def choices(self) -> Sequence[int]:
        """The target's own choice after every node. A call's first reader computes those of all its rows.

        Of a row with a `ComputedEdit` each is computed when it is read.
        """
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
        return self._call.hidden(tap)[start : start + self._call.trees[self._row].num_nodes]

    def read(self, tap: str) -> NDArray[np.float32]:
        """f32[P - 1, D]: hidden states of what the row read in this call before the root, as of a prompt."""
        return self._call.scores.read(self._row, tap)


class PathScores(RowScores):
    """Scores of a path whose nodes have been scored one by one."""

    __slots__ = ("_nodes",)

    def __init__(self, nodes: Sequence[RowScores]) -> None:
        self._nodes = nodes

    @property
    def choices(self) -> Sequence[int]:
        """As of every row."""
        return [node.choices[0] for node in self._nodes]

    def logits(self, nodes: Sequence[int]) -> NDArray[np.float32]:
        """As of every row."""
        return np.concatenate([self._nodes[node].logits([0]) for node in nodes])

    def law(self, node: int, sampling: Sampling) -> NDArray[np.floating]:
        """As of every row."""
        return self._nodes[node].law(0, sampling)

    def top(self, nodes: Sequence[int], k: int) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
        """As of every row."""
        found = [self._nodes[node].top([0], k) for node in nodes]
        return np.concatenate([ids for ids, _ in found]), np.concatenate([logits for _, logits in found])

    def hidden(self, tap: str) -> NDArray[np.float32]:
        """As of every row."""
        return np.concatenate([node.hidden(tap) for node in self._nodes])

    def read(self, tap: str) -> NDArray[np.float32]:
        """What the first node's row read."""
        return self._nodes[0].read(tap)


class ScoredCall:
    """A call's scores together with what its choices depend on, so that one `choose` serves all rows.

    This is the one place where logit edits enter.
    """

    __slots__ = ("_choices", "_hidden", "asks", "edits", "scores", "trees")

    def __init__(self, scores: Scores, trees: Sequence[TokenTree], asks: Sequence[Ask]) -> None:
        self.scores = scores
        self.trees = trees
        self.asks = asks
        self.edits = [edits_of(ask.edit, tree) for tree, ask in zip(trees, asks, strict=True)]
        self._choices: list[Sequence[int]] | None = None
        self._hidden: dict[str, NDArray[np.float32]] = {}

    def hidden(self, tap: str) -> NDArray[np.float32]:
        """Of all rows, fetched once for all of them."""
        if tap not in self._hidden:
            self._hidden[tap] = self.scores.hidden(tap)
        return self._hidden[tap]

    def choices(self) -> list[Sequence[int]]:
        """Per row, the target's choice after every node."""
        if self._choices is None:
            samplings = [ask.sampling for ask in self.asks]
            positions = [ask.position for ask in self.asks]
            top = max(ask.top for ask in self.asks)
            if all(row is None for row in self.edits):
                self._choices = [*self.scores.choose(samplings, positions, None, top)]
                return self._choices
            plain = [_plain(row) for row in self.edits]
            lazy = [one is None and row is not None for one, row in zip(plain, self.edits, strict=True)]
            self._choices = [_LazyChoices(self, row) for row in range(len(self.trees))]
            if not all(lazy):
                edits = None if all(row is None for row in plain) else plain
                chosen = self.scores.choose(samplings, positions, edits, top)
                for row, one in enumerate(chosen):
                    self._choices[row] = self._choices[row] if lazy[row] else one
        return self._choices

    def choice(self, row: int, node: int) -> int:
        """The target's choice after one node, from its logits on the host. NO_CHOICE where there is none."""
        ask, edits = self.asks[row], self.edits[row]
        raw = self.scores.logits(row, [node])[0]
        if not np.isfinite(raw.max()):
            return NO_CHOICE
        logits = edited(raw, None if edits is None else edits[node])
        return choose(logits[None], ask.sampling, [ask.position + 1 + self.trees[row].shape.depths[node]])[0]

    def rows(self) -> list[RowScores]:
        """A view for each row."""
        return [RowScores(self, row) for row in range(len(self.trees))]


def _plain(edits: Sequence[AnyEdit | None] | None) -> Sequence[Edit | None] | None:
    """A row's edits, if a target can read them all."""
    if edits is None:
        return None
    plain = [edit for edit in edits if not isinstance(edit, ComputedEdit)]
    return plain if len(plain) == len(edits) else None


class _LazyChoices(Sequence[int]):
    """The choices of a row whose logits a function edits, which may take long: computed one by one."""

    __slots__ = ("_call", "_found", "_row")

    def __init__(self, call: ScoredCall, row: int) -> None:
        self._call = call
        self._row = row
        self._found: dict[int, int] = {}

    def __len__(self) -> int:
        return self._call.trees[self._row].num_nodes

    @overload
    def __getitem__(self, node: int) -> int: ...

    @overload
    def __getitem__(self, node: slice) -> list[int]: ...

    def __getitem__(self, node: int | slice) -> int | list[int]:
        if isinstance(node, slice):
            return [self[one] for one in range(len(self))[node]]
        node = range(len(self))[node]
        if node not in self._found:
            self._found[node] = self._call.choice(self._row, node)
        return self._found[node]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule's judgement: `path` are the ids of the nodes kept after the root, `token` is the one more."""

    path: Sequence[int]
    token: int
    exactness: Exactness


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What a step of all its rows took, in seconds.

    draft_s  the drafter: what it proposed and, once that is known, what it observed.
    score_s  the target's call, its choices and the verdicts. keep_s: what it committed.
    """

    draft_s: float
    score_s: float
    keep_s: float = 0.0

    @property
    def call_s(self) -> float:
        """All of the target's part."""
        return self.score_s + self.keep_s


UNTIMED = StepTimes(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one row: all that a drafter may learn from. `scores` dies with the target's next call.

    passes   of a looped model's layers since the row's last step, in a pipeline; a whole call there is R.
    guessed  in a pipeline, the tokens that were under way behind the last kept node.
    """

    tree: TokenTree
    scores: RowScores
    verdict: Verdict
    times: StepTimes = UNTIMED
    passes: int = 0
    guessed: Sequence[int] = ()

    @property
    def drafts(self) -> tuple[TokenTree, Sequence[int]]:
        """What had been drafted before the last token was known, and the nodes of it that are right."""
        tree, path = self.tree, self.verdict.path
        if not self.guessed:
            return tree, path
        first, last = tree.num_nodes, path[-1] if path else 0
        parents = [*tree.shape.parent_list, *[last] * len(self.guessed)]
        right = [first + i for i, token in enumerate(self.guessed) if token == self.verdict.token]
        return TokenTree.of([*tree.token_list, *self.guessed], parents), [*path, *right]

    def told(self, times: StepTimes) -> Step:
        """The step with what it took, once who learns from its tree has been told what became of that."""
        if self.tree.learn is not None:
            self.tree.learn(self.tree, self.tokens)
        return replace(self, times=times)

    @property
    def tokens(self) -> list[int]:
        """The tokens that the step commits: the kept drafts and the one more."""
        tokens = self.tree.token_list
        return [*[tokens[node] for node in self.verdict.path], self.verdict.token]


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

    def __post_init__(self) -> None:
        shape = len(self.nodes), self.tokens.shape[-1]
        assert self.tokens.shape == self.logq.shape == shape and len(self.laws) in (0, shape[0]), "F, K and F"

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
