"""Another model drafts: any target for any other.

Leviathan, Kalman & Matias 2022, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318; trees of a draft model:
SpecInfer (Miao et al. 2023, arXiv:2305.09781); other vocabularies: Timor et al. 2025, arXiv:2502.05202.

    propose  a TreePolicy grows a tree, one call of the draft model per level for all rows; the first call
             also reads the committed tokens that a row has not read yet
    observe  of the nodes that the draft model has scored, those on the accepted path keep their keys and
             values; the rest of the committed tokens is to be read

The draft model's choices carry the target's own noise (`trees/grow.py`): a draft model of the target's law
drafts the very sample of the target. Between two vocabularies stands `foreign.py`.

Deviations. A level scores the nodes to expand and their ancestors anew: the price of a call hardly depends on
its size, and so no drafted node is cached before it is accepted. A row that the draft model has no room for,
or that has tokens unknown to it, drafts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Call, Kept, Prompt
from outpace.core.contracts import Target, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.core.steps import Ask, Scores, Step
from outpace.core.tree import TokenTree
from outpace.drafters.model.follower import Follower, catch_up
from outpace.drafters.model.foreign import IntersectionBridge, Respelled, TextBridge
from outpace.drafters.model.vocabulary import (
    Bridge,
    Reader,
    Reading,
    SameTokens,
    SameVocabulary,
    Words,
    same_vocabulary,
)
from outpace.trees.chain import Chain
from outpace.trees.grow import grow_trees, traits_of

BRIDGES = ("auto", "text", "intersection")

Rows = Sequence[int]
Trees = Sequence[TokenTree]
Nodes = Sequence[Sequence[int]]


class SmallModelState(Follower):
    """One row: what the draft model has to read, and its last tree."""

    __slots__ = ("reading", "scored")

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.reading = reading
        self.scored: TokenTree | None = None


class SmallModel:
    """Trees of a draft model, for which nobody else may have use from `propose` to `observe`.

    reader, bridge  what stands between the two vocabularies.
    tree            the shape of drafts; None for a chain of four.
    """

    def __init__(
        self, target: Target, reader: Reader, bridge: Bridge, *, tree: TreePolicy | None = None
    ) -> None:
        self._target = target
        self._reader = reader
        self._bridge = bridge
        self._tree: TreePolicy = Chain() if tree is None else tree
        self.same_vocabulary = isinstance(bridge, SameVocabulary)
        grown = traits_of(self._tree, own=tree is None)
        self.traits = replace(grown, draws=bridge.draws & grown.draws)

    @classmethod
    def of(
        cls, draft_target: Target, *, tree: TreePolicy | None = None, vocab_size: int | None = None
    ) -> Self:
        """From a target of the same vocabulary; `vocab_size` is that of the model it drafts for."""
        size = draft_target.vocab_size if vocab_size is None else vocab_size
        return cls(draft_target, SameTokens(), SameVocabulary(size), tree=tree)

    def start(self, prompt: Prompt) -> SmallModelState:
        """The prompt is to be read; nothing runs before the first draft."""
        return SmallModelState(self._reader.start(prompt))

    def propose(self, states: Sequence[SmallModelState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row; root-only where the draft model cannot draft."""
        proposals = [TokenTree.root(ask.root) for ask in asks]
        drafting, own, calls = self.calls(states, asks)
        can_pick = self._tree.width == 1 or all(ask.sampling.temperature == 0 for ask in own)
        pick = calls.pick if self._bridge.plain and can_pick else None
        for number, tree in zip(drafting, grow_trees(own, self._tree, calls.step, pick=pick), strict=True):
            proposals[number] = self._bridge.proposal(tree, asks[number])
        return proposals

    def calls(
        self, states: Sequence[SmallModelState], asks: Sequence[Ask]
    ) -> tuple[list[int], list[Ask], Calls]:
        """The rows that can draft now, what is asked there in the draft model's tokens, and its calls."""
        wanted = [number for number, ask in enumerate(asks) if min(ask.budget, ask.depth) > 0]
        rooms = self._catch_up([states[number] for number in wanted])
        drafting = [number for number, room in zip(wanted, rooms, strict=True) if room > 0]
        rows = [states[number] for number in drafting]
        own = [
            self._bridge.ask(asks[number], row.reading.ids[-1])
            for number, row in zip(drafting, rows, strict=True)
        ]
        rooms = [room for room in rooms if room > 0]
        return drafting, own, Calls(self._target, self._bridge, rows, own, rooms)

    def observe(self, states: Sequence[SmallModelState], steps: Sequence[Step]) -> list[SmallModelState]:
        """Keep the drafted nodes that were accepted; the other committed tokens are pending."""
        rows: list[int] = []
        paths: list[Kept] = []
        for state, one in zip(states, steps, strict=True):
            if state.lost:
                continue
            scored, state.scored = state.scored, None
            if scored is not None:
                del state.reading.ids[:-1]  # they ran with the tree, and are kept whatever becomes of it
            path = self._reader.commit(state.reading, scored, one.tokens)
            if scored is not None:
                rows.append(state.number)
                paths.append(path)
        self._target.keep(rows, paths)
        return list(states)

    def fork(self, state: SmallModelState) -> SmallModelState:
        """The same row once more; what is unread is read before, once for both."""
        self._catch_up([state])
        reading = state.reading
        row, lost = state.fork(self._target, reading.ids)
        twin = SmallModelState(Reading(reading.ids, reading.tail))
        twin.row, twin.lost = row, lost
        return twin

    def stop(self, state: SmallModelState) -> None:
        """Give the row back."""
        state.free(self._target)

    def _catch_up(self, states: Sequence[SmallModelState]) -> list[int]:
        """The rows read all but the last of what is unread; how many nodes there is room for then, or 0."""
        for state in states:
            state.scored = None
        texts = [[] if state.lost else self._reader.pending(state.reading) for state in states]
        rooms = [0] * len(states)
        for n, unread in enumerate(catch_up(self._target, states, texts)):
            if unread:
                states[n].reading = Reading(unread)
                rooms[n] = (
                    self._target.context_length - self._target.length(states[n].number) - len(unread) + 1
                )
        return rooms


@checked
def small_model(
    target: Target,
    tokenizer: Any,
    open_model: Callable[[str], Any],
    *,
    model: str,
    bridge: str = "auto",
    tree: TreePolicy | None = None,
) -> SmallModel:
    """From a model's short name, file or folder.

    bridge  what to do about another vocabulary: "text", "intersection", or "auto" for nothing if it is the
            same and else "text".

    An OutpaceError for another bridge, and where a tokenizer that the bridge needs is missing.
    """
    if bridge not in BRIDGES:
        raise OutpaceError(f"small_model has bridge={bridge!r}, accepted are {', '.join(BRIDGES)}")
    small = open_model(model)
    ours, theirs = Words(tokenizer, target.vocab_size), Words(small.tokenizer, small.target.vocab_size)
    if bridge == "auto" and same_vocabulary(ours, theirs):
        return SmallModel.of(small.target, tree=tree, vocab_size=target.vocab_size)
    if tokenizer is None or small.tokenizer is None:
        raise OutpaceError(
            f"small_model has model={model!r} of another vocabulary, which takes both tokenizers; "
            "accepted are models of the same vocabulary"
        )
    between = IntersectionBridge if bridge == "intersection" else TextBridge
    return SmallModel(small.target, Respelled(ours, theirs), between(ours, theirs), tree=tree)


class Calls:
    """The draft model as a step function, for the rows of one `propose`.

    asks   what is grown for each row; their first node stands for the draft model's last token.
    rooms  how many nodes each row may score.
    """

    def __init__(
        self,
        target: Target,
        bridge: Bridge,
        states: Sequence[SmallModelState],
        asks: Sequence[Ask],
        rooms: Sequence[int],
    ) -> None:
        self._target = target
        self._bridge = bridge
        self._states = states
        self._asks = asks
        self._rooms = rooms
        self._last: list[SmallModelState] = []  # the rows of the last call

    def step(self, rows: Rows, trees: Trees, nodes: Nodes) -> list[NDArray[np.float32] | None]:
        """See `trees.grow.StepFunction`."""
        logits: list[NDArray[np.float32] | None] = [None] * len(rows)
        scores, part = self._score(rows, trees, nodes)
        if scores is not None:
            for number, (place, at) in enumerate(part):
                logits[place] = self._bridge.from_draft(scores.logits(number, at))
        return logits

    def pick(self, rows: Rows, trees: Trees, nodes: Nodes, width: int) -> list[list[list[int]] | None]:
        """See `trees.grow.PickFunction`: the choices where they will do, else the top."""
        picked: list[list[list[int]] | None] = [None] * len(rows)
        scores, part = self._score(rows, trees, nodes)
        if scores is not None and width == 1:
            asks = [self._asks[rows[place]] for place, _ in part]
            choices = scores.choose([ask.sampling for ask in asks], [ask.position for ask in asks])
            for (place, at), chosen in zip(part, choices, strict=True):
                picked[place] = [[chosen[node]] for node in at]
        elif scores is not None:
            for number, (place, at) in enumerate(part):
                picked[place] = scores.top(number, at, width)[0].tolist()
        return picked

    def _score(
        self, rows: Rows, trees: Trees, nodes: Nodes
    ) -> tuple[Scores | None, list[tuple[int, list[int]]]]:
        """One call on the nodes and their ancestors: the places of the rows it has, and their nodes in it."""
        part, calls, left = list[tuple[int, list[int]]](), list[Call](), self._target.traits.max_nodes
        for place, (row, tree, wanted) in enumerate(zip(rows, trees, nodes, strict=True)):
            state, kept = self._states[row], tree.shape.closure(wanted)
            pending = state.reading.ids
            if state.scored is not None and len(pending) > 1:  # once is enough
                self._target.keep([state.number], [None])
                del pending[:-1]
                state.scored = None  # of that call nothing more can be kept
            size = len(pending) - 1 + len(kept)
            if len(kept) <= self._rooms[row] and size <= left:
                left -= size
                part.append((place, [kept.index(node) for node in wanted]))
                draft = self._bridge.into_draft(tree.prune(kept), pending[-1])
                calls.append(Call(state.number, list(pending), draft))
        if not part:
            return None, []
        for state in self._last:  # the target forgets what it does not get again
            state.scored = None
        self._last = [self._states[rows[place]] for place, _ in part]
        try:
            scores = self._target.score(calls)
        except OutpaceError:  # no memory left for these rows
            return None, []
        for state, call in zip(self._last, calls, strict=True):
            state.scored = call.tree
        return scores, part
