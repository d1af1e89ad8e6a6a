"""The loop of looped models: the next tokens start while the current one is still on its way.

Hooper et al. 2023, "SPEED: Speculative Pipelined Execution for Efficient Decoding", arXiv:2310.12072; two
proposals as in LoopSpec, arXiv:2609.17184. A decoder whose G layers run R times over has tokens of different
age in flight. One pass runs the G layers once for all of them, and so reads the weights once.

    enter   a row's last committed token, and what the drafter adds to it, in loop 0
    pass    one loop for everything in flight
    guess   after loop d1 the model's own output, or that of a head, names the next token, which enters; where
            the output after loop d2 names another, that one enters too
    verify  after loop R the output is the model's choice: it is committed, and what hangs on another is
            dropped

Tokens are those of plain decoding, sampled ones too: a guess has the noise of its position and is right if
it is the choice. The text so far, its prompt included, is read by whole calls, and a row whose pass has
failed has its next token from one: where every pass fails that several rows share, each still gets on.

Deviations. SPEED is greedy. LoopSpec draws its guesses and rejects some; here a guess that is not the choice
is wrong, and a second one is simply what the deeper output chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

from outpace.core.call import Call, Pass
from outpace.core.contracts import Drafter, Looped, Rule
from outpace.core.edits import AnyEdit, EditAfter
from outpace.core.products import Adapter
from outpace.core.sampling import NO_CHOICE, no_choice
from outpace.core.steps import Ask, PathScores, RowScores, ScoredCall, Step, StepTimes, Verdict
from outpace.core.tree import TokenTree
from outpace.decode.judge import judge


@dataclass(slots=True, eq=False)
class Branch:
    """A token in flight. loop: the one that it runs next. came: its number in the row's last pass, or -1."""

    token: int
    parent: Branch | None
    loop: int = 0
    came: int = -1
    named: dict[int, int] = field(default_factory=dict)  # by outputs so far, by loop

    @property
    def path(self) -> list[int]:
        """The tokens below the root down to this one."""
        found, branch = list[int](), self
        while branch.parent is not None:
            found.append(branch.token)
            branch = branch.parent
        return found[::-1]


@dataclass(slots=True)
class Flight:
    """What a row has in flight, older branches first; none before its first pass and after a wrong guess.

    inner   the state of the drafter that adds to the guesses. asked: whether it has been, of this root.
    passes  since the row's last token.
    timed   (tokens of all rows, seconds) of passes since then; of each pass one row alone tells.
    told    per committed token, what the outputs after which loops had named, and the token.
    failed  whether its last pass has: it starts anew, behind a token that a whole call gives.
    """

    inner: Any
    branches: list[Branch] = field(default_factory=list)
    passes: int = 0
    timed: list[tuple[int, float]] = field(default_factory=list)
    told: list[tuple[dict[int, int], int]] = field(default_factory=list)
    asked: bool = False
    failed: bool = False

    def forget(self) -> None:
        """The row starts anew from its last committed token."""
        self.branches, self.asked = [], False

    def fail(self) -> None:
        """As `forget`, after an error."""
        self.forget()
        self.failed = True

    def child(self, parent: Branch, token: int) -> Branch | None:
        """What hangs on a branch with this token."""
        return next((b for b in self.branches if b.parent is parent and b.token == token), None)

    def enter(self, parent: Branch | None, token: int) -> Branch:
        """A branch in loop 0."""
        branch = Branch(token, parent)
        self.branches.append(branch)
        return branch

    def descend(self, root: Branch) -> None:
        """Keep what hangs on a branch, which is the root from now on."""
        root.parent, kept, known = None, [root], {id(root)}
        for branch in self.branches:
            if id(branch.parent) in known:
                kept.append(branch)
                known.add(id(branch))
        self.branches, self.asked = kept, False


@runtime_checkable
class Pipelined(Drafter, Protocol):
    """A drafter whose states are flights: this loop is for it."""

    def guesses(self, num_rows: int) -> Sequence[int]:
        """The loops after which outputs name a next token, rising, where so many rows share a pass."""

    @property
    def heads(self) -> Mapping[int, Adapter]:
        """By loop, what the output matrix reads in place of the state after it (see `Looped.advance`)."""

    def start(self, prompt: Any) -> Flight:
        """A row with nothing in flight."""


def step(
    target: Looped,
    drafter: Pipelined,
    rule: Rule,
    states: Sequence[Flight],
    asks: Sequence[Ask],
    reading: Sequence[Call] = (),
) -> tuple[list[Step | None], list[Flight], StepTimes]:
    """One pass of the layers for all rows; a row whose oldest token is not through has no step yet.

    Rows with something to read, or whose last pass has failed, have a whole call, which gives a token.
    """
    try:
        return _step(target, drafter, rule, states, asks, reading)
    except BaseException:
        for flight in states:
            flight.fail()
        raise


def _step(
    target: Looped,
    drafter: Pipelined,
    rule: Rule,
    states: Sequence[Flight],
    asks: Sequence[Ask],
    reading: Sequence[Call],
) -> tuple[list[Step | None], list[Flight], StepTimes]:
    began = perf_counter()
    fresh = [i for i, ask in enumerate(asks) if ask.unread or states[i].failed]
    going = [i for i, ask in enumerate(asks) if not (ask.unread or states[i].failed)]
    steps: list[Step | None] = [None] * len(asks)
    _add_drafts(drafter, [states[i] for i in going], [asks[i] for i in going], target.vocab_size)
    drafted = perf_counter()
    keep_s = 0.0
    if fresh or reading:
        whole, keep_s = _read(target, rule, [asks[i] for i in fresh], reading)
        for i, one in zip(fresh, whole, strict=True):
            steps[i] = replace(one, passes=states[i].passes + target.num_loops)
            states[i].passes, states[i].failed = 0, False
    if going:
        flights = [states[i] for i in going]
        try:
            passed, kept_s = _pass(target, drafter, flights, [asks[i] for i in going])
        except Exception:
            if not (fresh or reading):
                raise
            # What the others have read is committed and has to be told.
            for flight in flights:
                flight.fail()
            passed, kept_s = [None] * len(going), 0.0
        keep_s += kept_s
        for i, late in zip(going, passed, strict=True):
            steps[i] = late
    scored = perf_counter()
    times = StepTimes(draft_s=drafted - began, score_s=scored - drafted - keep_s, keep_s=keep_s)
    steps = [None if one is None else replace(one, times=times) for one in steps]
    told = [(i, one) for i, one in enumerate(steps) if one is not None]
    after = drafter.observe([states[i] for i, _ in told], [one for _, one in told])
    new = list(states)
    for (i, _), flight in zip(told, after, strict=True):
        new[i], flight.told, flight.timed = flight, [], []
    return steps, new, replace(times, draft_s=times.draft_s + perf_counter() - scored)


def _add_drafts(drafter: Pipelined, flights: Sequence[Flight], asks: Sequence[Ask], vocab_size: int) -> None:
    """What the drafter says after new roots enters with them, or hangs on what is in flight already."""
    new = [(flight, ask) for flight, ask in zip(flights, asks, strict=True) if not flight.asked]
    if not new:
        return
    trees = [TokenTree.root(ask.root) for _, ask in new]
    if any(ask.budget > 0 and ask.depth > 0 for _, ask in new):
        trees = drafter.propose([flight for flight, _ in new], [ask for _, ask in new])
    for (flight, ask), tree in zip(new, trees, strict=True):
        tree = tree.fit(ask.root, vocab_size=vocab_size, budget=ask.budget, depth=ask.depth)
        flight.asked = True
        root = flight.branches[0] if flight.branches else flight.enter(None, ask.root)
        at = {0: root}
        for node, parent in enumerate(tree.shape.parent_list[1:], 1):
            if parent not in at:
                continue
            token = tree.token_list[node]
            known = flight.child(at[parent], token)
            if known is None and _has_place(flight, ask.budget, ask.depth, at[parent]):
                known = flight.enter(at[parent], token)
            if known is not None:
                at[node] = known


def _has_place(flight: Flight, budget: int, depth: int, parent: Branch) -> bool:
    """Whether one more may hang on a branch: within the budget, and no deeper than what is still wanted."""
    return len(flight.branches) <= budget and len(parent.path) < depth


def _read(
    target: Looped, rule: Rule, asks: Sequence[Ask], reading: Sequence[Call]
) -> tuple[list[Step], float]:
    trees = [TokenTree.root(ask.root) for ask in asks]
    calls = [ask.call(tree) for ask, tree in zip(asks, trees, strict=True)]
    scores = target.score([*calls, *reading])
    steps = judge(rule, ScoredCall(scores, trees, asks)) if asks else []
    before = perf_counter()
    rows = [*(ask.row for ask in asks), *(call.row for call in reading)]
    target.keep(rows, [()] * len(rows))
    return steps, perf_counter() - before


def _pass(
    target: Looped, drafter: Pipelined, flights: Sequence[Flight], asks: Sequence[Ask]
) -> tuple[list[Step | None], float]:
    began, last, guesses = perf_counter(), target.num_loops, drafter.guesses(len(flights))
    outputs = {*guesses, last}
    passes, places = [], list[list[Branch]]()
    for flight, ask in zip(flights, asks, strict=True):
        del flight.branches[ask.budget + 1 :]  # rows that have joined since need their place
        number = {id(branch): i for i, branch in enumerate(flight.branches)}
        parents = [-1 if b.parent is None else number[id(b.parent)] for b in flight.branches]
        wanted = [i for i, branch in enumerate(flight.branches) if branch.loop + 1 in outputs]
        tree = TokenTree.of([branch.token for branch in flight.branches], parents)
        loops, came = [b.loop for b in flight.branches], [b.came for b in flight.branches]
        passes.append(Pass(ask.row, tree, loops, came, wanted))
        places.append([flight.branches[i] for i in wanted])
    scores = target.advance(passes, drafter.heads)
    for flight in flights:
        flight.passes += 1
        for i, branch in enumerate(flight.branches):
            branch.loop, branch.came = branch.loop + 1, i
    outputs_of = _Outputs(scores, places, asks)
    # A row without a choice must not end what others have committed: all are verified before any is kept.
    verified = [
        _verify(flight, outputs_of, last) if flight.branches[0].loop == last else None for flight in flights
    ]
    steps = [one and one[0] for one in verified]
    kept = [(ask.row, one[1]) for ask, one in zip(asks, verified, strict=True) if one is not None]
    before = perf_counter()
    target.keep([row for row, _ in kept], [path for _, path in kept])
    kept_s = perf_counter() - before
    for flight, ask, named, one in zip(flights, asks, places, steps, strict=True):
        depth = ask.depth - (0 if one is None else len(one.tokens))
        _guess(flight, ask.budget, depth, named, outputs_of, guesses)
    size = sum(one.tree.num_nodes for one in passes)
    flights[0].timed.append((size, perf_counter() - began))
    return steps, kept_s


class _Outputs:
    """The choices after all branches of a pass that have an output."""

    def __init__(self, scores: Any, places: Sequence[Sequence[Branch]], asks: Sequence[Ask]) -> None:
        trees, alone = list[TokenTree](), list[Ask]()
        self._at: dict[int, int] = {}
        for branches, ask in zip(places, asks, strict=True):
            for branch in branches:
                self._at[id(branch)] = len(trees)
                path = branch.path
                edit = ask.edit if ask.edit is None or not path else partial(_edit_below, ask.edit, path)
                trees.append(TokenTree.root(branch.token))
                alone.append(replace(ask, root=branch.token, position=ask.position + len(path), edit=edit))
        self._scored = ScoredCall(scores, trees, alone) if trees else None
        self._rows = [] if self._scored is None else self._scored.rows()

    def of(self, branch: Branch) -> RowScores:
        """The scores after a branch, as those of a tree that is nothing but it."""
        return self._rows[self._at[id(branch)]]

    def choice(self, branch: Branch) -> int:
        """The target's choice after a branch."""
        return self.of(branch).choices[0]


def _edit_below(edit: EditAfter, path: Sequence[int], tokens: Sequence[int]) -> AnyEdit | None:
    return edit([*path, *tokens])


def _verify(flight: Flight, outputs: _Outputs, last: int) -> tuple[Step, list[int]]:
    """The oldest branch is through, maybe others behind it. Returns these others' numbers, to be kept."""
    through = [flight.branches[0]]
    while (after := flight.child(through[-1], outputs.choice(through[-1]))) and after.loop == last:
        through.append(after)
    token, path = outputs.choice(through[-1]), range(1, len(through))
    flight.told = [(branch.named, outputs.choice(branch)) for branch in through]
    if token == NO_CHOICE:
        raise no_choice()
    step = Step(
        TokenTree.chain(through[0].token, [branch.token for branch in through[1:]]),
        PathScores([outputs.of(branch) for branch in through]),
        Verdict(path, token, "identical"),
        passes=flight.passes,
        guessed=[branch.token for branch in flight.branches if branch.parent is through[-1]],
    )
    flight.passes = 0
    if after is None:
        flight.forget()
    else:
        flight.descend(after)
    return step, [branch.came for branch in through[1:]]


def _guess(
    flight: Flight,
    budget: int,
    depth: int,
    named: Sequence[Branch],
    outputs: _Outputs,
    guesses: Sequence[int],
) -> None:
    """What the outputs of younger branches name enters behind them."""
    for branch in named:
        if branch.loop not in guesses or not any(branch is other for other in flight.branches):
            continue
        token = branch.named[branch.loop] = outputs.choice(branch)
        if token == NO_CHOICE or flight.child(branch, token) is not None:
            continue
        if _has_place(flight, budget, depth, branch):
            flight.enter(branch, token)
