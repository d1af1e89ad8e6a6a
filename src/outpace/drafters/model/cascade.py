"""A small model drafts for the target, and a cheaper drafter for the small model (`half_step` and `step`).

Chen et al. 2023, "Cascade Speculative Drafting for Even Faster LLM Inference", arXiv:2312.11462; staged
speculation: Spector & Re 2023, arXiv:2308.04623.

    vertical    the small model generates `length` tokens by steps of the one decoding loop: a cheaper drafter
                proposes, the small model judges by the rule match, in the target's own noise
    horizontal  the cheaper drafter alone adds `tail` tokens: late tokens are rarely accepted and have to be
                cheap
    observe     the cheaper drafter learns from the target's own steps

The small model's guesses live in a fork of its row and of the cheaper drafter's state. Both are freed when
the proposal is made; the row itself holds committed text alone.

Deviations. One small model instead of a matrix of lengths for several; cascades nest (`draft=[cascade:...]`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter, Forkable, Target
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, sizes, within
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.decode.pairing import check_pairing
from outpace.decode.step import half_step, step
from outpace.drafters import DRAFTERS
from outpace.drafters.model.follower import Follower, catch_up
from outpace.drafters.model.vocabulary import Words, same_vocabulary
from outpace.rules.match import Match

MATCH = Match()


class CascadeState(Follower):
    """One row: what the small model has not read, and the cheaper drafter's state."""

    __slots__ = ("inner", "unread")

    def __init__(self, unread: Sequence[int], inner: Any) -> None:
        super().__init__()
        self.unread: list[int] = list(unread)
        self.inner = inner


class Cascade:
    """Chains of `length` tokens of a small model and `tail` tokens of the drafter that drafts for it.

    small  the small model, of the target's vocabulary. inner: the cheaper drafter.
    """

    @checked
    def __init__(
        self,
        small: Target,
        inner: Forkable,
        *,
        length: int = 8,
        tail: int = 0,
        eos_ids: frozenset[int] = frozenset(),
    ) -> None:
        sizes("cascade", length=length)
        within("cascade", 0, tail=tail)
        check_pairing(small, inner, MATCH)
        self._small = small
        self._inner = inner
        self._length = length
        self._tail = tail
        self._eos_ids = eos_ids
        self.traits = Traits(reads_top=inner.traits.reads_top, paced="always")

    def start(self, prompt: Prompt) -> CascadeState:
        """The small model reads the prompt when it is first asked."""
        return CascadeState(prompt, self._inner.start(prompt))

    def propose(self, states: Sequence[CascadeState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A chain for each row; root-only where the small model cannot draft."""
        drafts: dict[int, list[int]] = {n: [] for n in self._catch_up(states, asks)}
        guesses = {n: self._inner.fork(states[n].inner) for n in drafts}
        rows: dict[int, int] = {}
        try:
            self._begin(states, asks, drafts, guesses, rows)
            unread = {n: drafts[n][:-1] for n in rows}  # the forks have the text before the drafts
            while live := [n for n in rows if self._left(asks[n], drafts[n]) > 0]:
                own = [self._ask(asks[n], drafts[n], rows[n], unread[n]) for n in live]
                steps, inner, _ = step(self._small, self._inner, MATCH, [guesses[n] for n in live], own)
                for n, one, guess in zip(live, steps, inner, strict=True):
                    drafts[n] += one.tokens
                    guesses[n], unread[n] = guess, []
            self._end(asks, drafts, guesses)
        except OutpaceError:  # no memory left for these rows: the draft so far is used
            pass
        finally:
            self._small.free(list(rows.values()))
            for guess in guesses.values():
                self._inner.stop(guess)
        return [TokenTree.chain(ask.root, drafts.get(n, [])) for n, ask in enumerate(asks)]

    def observe(self, states: Sequence[CascadeState], steps: Sequence[Step]) -> list[CascadeState]:
        """What was committed is to be read; the cheaper drafter learns from it."""
        inner = self._inner.observe([state.inner for state in states], steps)
        for state, one, own in zip(states, steps, inner, strict=True):
            state.unread += one.tokens
            state.inner = own
        return list(states)

    def fork(self, state: CascadeState) -> CascadeState:
        """The same row once more; what is unread is read before, once for both."""
        self._read([state])
        row, lost = state.fork(self._small, state.unread)
        twin = CascadeState(state.unread, self._inner.fork(state.inner))
        twin.row, twin.lost = row, lost
        return twin

    def stop(self, state: CascadeState) -> None:
        """Give back the row and the cheaper drafter's state."""
        state.free(self._small)
        self._inner.stop(state.inner)

    def _read(self, states: Sequence[CascadeState]) -> None:
        """The small model reads all but the last of what is unread; a text that does not fit it gives up."""
        left = catch_up(self._small, states, [state.unread for state in states])
        for state, unread in zip(states, left, strict=True):
            state.unread = unread or state.unread

    def _catch_up(self, states: Sequence[CascadeState], asks: Sequence[Ask]) -> list[int]:
        """The rows that can be drafted for."""
        wanted = [n for n, ask in enumerate(asks) if self._left(ask, []) > 0]
        self._read([states[n] for n in wanted])
        return [n for n in wanted if states[n].row is not None]

    def _begin(
        self,
        states: Sequence[CascadeState],
        asks: Sequence[Ask],
        drafts: dict[int, list[int]],
        guesses: dict[int, Any],
        rows: dict[int, int],
    ) -> None:
        """The first step: the rows keep what was pending of what it scores, and forks continue from there."""
        live, known = list(drafts), [row for n in drafts if (row := states[n].row) is not None]
        if not live:
            return
        own = [self._ask(asks[n], [], row, states[n].unread[:-1]) for n, row in zip(live, known, strict=True)]
        steps, _ = half_step(self._small, self._inner, MATCH, [guesses[n] for n in live], own)
        self._small.keep(known, [() for _ in known])
        for n in live:
            states[n].unread = []
        for n, row, one in zip(live, known, steps, strict=True):
            rows[n] = self._small.fork(row)
            drafts[n] += one.tokens
        guesses |= zip(live, self._inner.observe([guesses[n] for n in live], steps), strict=True)

    def _end(self, asks: Sequence[Ask], drafts: dict[int, list[int]], guesses: dict[int, Any]) -> None:
        """The last tokens, by the cheaper drafter alone: its first path."""
        room = {n: min(self._tail, self._most(asks[n]) - len(draft)) for n, draft in drafts.items()}
        live = [n for n, draft in drafts.items() if room[n] > 0 and draft and draft[-1] not in self._eos_ids]
        own = [self._ask(asks[n], drafts[n], -1, (), room[n]) for n in live]
        trees = self._inner.propose([guesses[n] for n in live], own) if live else []
        for n, ask, tree in zip(live, own, trees, strict=True):
            fit = tree.fit(ask.root, vocab_size=self._small.vocab_size, budget=ask.budget, depth=ask.depth)
            drafts[n] += [fit.token_list[node] for node in fit.paths()[0][1:]]

    def _most(self, ask: Ask) -> int:
        """The longest chain that may be proposed; the small model has to have room for it too."""
        return min(ask.budget, ask.depth, self._small.context_length - ask.position)

    def _left(self, ask: Ask, draft: Sequence[int]) -> int:
        """How many tokens more the small model may say."""
        if draft and draft[-1] in self._eos_ids:
            return 0
        return min(self._length, self._most(ask)) - len(draft)

    def _ask(
        self, ask: Ask, draft: Sequence[int], row: int, unread: Sequence[int], depth: int | None = None
    ) -> Ask:
        """What the cheaper drafter is asked for behind a draft, by default all but the last token wanted."""
        position = ask.position + len(draft)
        depth = self._left(ask, draft) - 1 if depth is None else depth
        return Ask(
            root=draft[-1] if draft else ask.root,
            position=position,
            sampling=ask.sampling,
            budget=max(0, min(ask.budget, self._small.context_length - position - 1)),
            depth=depth,
            row=row,
            unread=unread,
            draw=MATCH.draw,
            law=False,
            top=self.traits.reads_top,
        )


@checked
def cascade(
    target: Target,
    tokenizer: Any,
    open_model: Callable[[str], Any],
    context: Mapping[str, Any],
    *,
    model: str,
    draft: str = "ngram",
    length: int = 8,
    tail: int = 0,
) -> Cascade:
    """From a small model's short name, file or folder, and the cheaper drafter's name.

    An OutpaceError for a model of another vocabulary, and for a drafter that cannot try a text and forget it.
    """
    small = open_model(model)
    words = Words(tokenizer, target.vocab_size), Words(small.tokenizer, small.target.vocab_size)
    if not same_vocabulary(*words):
        raise OutpaceError(f"cascade has model={model!r}, accepted are models of the target's vocabulary")
    own = {
        "target": small.target,
        "tokenizer": small.tokenizer,
        "tree": None,
        "costs": small.costs,
        "memo": lambda name, make, fits=None: make(),
    }
    inner: Drafter = DRAFTERS.create(draft, **{**context, **own})
    if not isinstance(inner, Forkable):
        raise OutpaceError(
            f"cascade has draft={draft!r}, accepted are drafters that can try a text and forget it, such "
            "as ngram, small_model and cascade"
        )
    return Cascade(small.target, inner, length=length, tail=tail, eos_ids=target.eos_ids)
