"""The bigram table against exact laws, and drafts against an enumeration of all paths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, warp
from outpace.core.steps import Ask, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.bigram import COPY_ODDS, WIDTH, Bigram, Table, bigram_table
from outpace.targets.table import TableTarget
from tests.rows import NO_SCORES

NO_TARGET = cast("Target", None)


def without_memo(name: str, make: Callable[[], Table], fits: Callable[[Table], bool]) -> Table:
    return make()


def ask(root: int, *, budget: int = 99, depth: int = 99) -> Ask:
    return Ask(root, 0, Sampling(), budget, depth)


def laws_of(target: TableTarget, *prefix: int) -> np.ndarray:
    """f64[V, V]: the exact law after each token behind a prefix."""
    every = [
        warp(target.after([*prefix, token]), Sampling(temperature=1.0)) for token in range(target.vocab_size)
    ]
    return np.stack(every)


@pytest.mark.parametrize("context_length", [7, 40, 300])
@pytest.mark.parametrize("eos_ids", [frozenset(), frozenset({9, 5})])
def test_the_table_is_the_law_after_one_token(context_length: int, eos_ids: frozenset[int]) -> None:
    """An order of 2 shows the prefix; contexts below V + 2 need several trees."""
    target = TableTarget.random(
        vocab_size=30, order=2, seed=4, eos_ids=eos_ids, context_length=context_length
    )
    table = bigram_table(target)
    laws = laws_of(target, min(eos_ids, default=0))
    ids = np.argsort(-laws, axis=1, kind="stable")[:, :WIDTH]
    assert table["ids"].tolist() == ids.tolist() and table["ids"].dtype == np.int32
    np.testing.assert_allclose(table["probs"], np.take_along_axis(laws, ids, axis=1), rtol=1e-5)
    assert target.num_rows == 0


def test_the_table_of_a_small_vocabulary_is_narrower() -> None:
    table = bigram_table(TableTarget.random(vocab_size=4, order=1))
    assert table["ids"].shape == (4, 4)
    np.testing.assert_allclose(table["probs"].sum(axis=1), 1.0, rtol=1e-5)


def test_the_row_is_given_back_when_the_table_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    target = TableTarget.random(vocab_size=4, order=1)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bigram_table(target)
    assert target.num_rows == 0


def test_a_table_that_is_kept_is_not_made_again() -> None:
    stored: dict[str, Table] = {}

    def memo(name: str, make: Callable[[], Table], fits: Callable[[Table], bool]) -> Table:
        if name not in stored:
            stored[name] = make()
        return stored[name]

    first = Bigram(TableTarget.random(vocab_size=6, order=1), memo)
    again = Bigram(NO_TARGET, memo)
    assert [*stored] == ["bigram-16"]
    trees = [drafter.propose([drafter.start(Prompt.of([3]))], [ask(3)])[0] for drafter in (first, again)]
    assert trees[0].token_list == trees[1].token_list


def test_only_a_table_that_fits_is_taken_from_a_file() -> None:
    target = TableTarget.random(vocab_size=6, order=1)
    right = bigram_table(target)
    asked: list[Callable[[Table], bool]] = []

    def memo(name: str, make: Callable[[], Table], fits: Callable[[Table], bool]) -> Table:
        asked.append(fits)
        return make()

    Bigram(target, memo)
    (fits,) = asked

    ids, probs = right["ids"], right["probs"]
    wrong: list[Table] = [
        {"ids": ids},
        {**right, "more": ids},
        {**right, "ids": ids + 1},
        {**right, "ids": ids - 1},
        {**right, "ids": ids.astype(np.int64)},
        {**right, "ids": ids[:-1]},
        {"ids": ids[:, 1:], "probs": probs[:, 1:]},
        {**right, "probs": -probs},
        {**right, "probs": probs * np.nan},
        {**right, "probs": probs + 1},
        {**right, "probs": np.full(probs.shape, "x")},
    ]
    assert [fits(table) for table in [right, *wrong]] == [True] + [False] * len(wrong)


def copied(text: Sequence[int], longest: int) -> list[int]:
    """m tokens from behind the latest place where the last m tokens stand; the last three decide on it."""
    for n in (3, 2, 1):
        for end in range(len(text) - 1, n - 1, -1):
            if text[end - n : end] == text[-n:]:
                m = max(m for m in range(n, end + 1) if text[end - m : end] == text[-m:]) if n == 3 else n
                endless = list(text)
                for i in range(longest):
                    endless.append(endless[end + i])
                return endless[len(text) :][: min(m, longest)]
    return []


def every_path(laws: np.ndarray, root: int, chain: list[int], depth: int) -> dict[tuple[int, ...], float]:
    """The probability of every path of up to `depth` tokens, by the definition of the mixture."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for path in itertools.chain.from_iterable(
        itertools.product(range(len(laws)), repeat=n) for n in range(1, depth + 1)
    ):
        before, token = path[:-1], path[-1]
        law = laws[before[-1] if before else root]
        odds = 0.0
        if list(before) == chain[: len(before)] and len(before) < len(chain):
            odds = COPY_ODDS[min(len(chain) + len(before), 8) - 1]
        right = len(before) < len(chain) and token == chain[len(before)]
        found[path] = found[before] * (odds * right + (1 - odds) * law[token])
    return found


@st.composite
def texts(draw: st.DrawFn) -> list[int]:
    """A few tokens that come back at the end."""
    some = st.lists(st.integers(0, 3), max_size=4)
    repeated = draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    return [*draw(some), *repeated, *draw(some), *repeated]


@given(
    texts(),
    st.integers(0, 1000),
    st.integers(1, 14),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([0, 1, 3, 99]),
    st.sampled_from([0, 1, 3, 99]),
)
def test_drafts_are_the_likeliest_paths(
    text: list[int], seed: int, size: int, depth: int, copy: bool, budget: int, room: int
) -> None:
    target = TableTarget.random(vocab_size=4, order=1, seed=seed)
    drafter = Bigram(target, without_memo, size=size, depth=depth, copy=copy)
    state = drafter.start(Prompt.of(text))
    [tree] = drafter.propose([state], [ask(text[-1], budget=budget, depth=room)])
    levels = min(depth, room)
    chain = copied(text, min(levels, budget)) if copy else []
    probs = every_path(laws_of(target), text[-1], chain, levels)
    paths = [tuple(tree.token_list[i] for i in tree.path_to(n)[1:]) for n in range(tree.num_nodes)]
    assert len(set(paths)) == len(paths) == min(size, budget, len(probs) - 1) + 1
    best = sorted(probs.values(), reverse=True)[: len(paths)]
    assert tree.logq is not None and tree.draw == "point"
    np.testing.assert_allclose([probs[path] for path in paths], best, rtol=1e-4)
    after = [probs[path] / probs[path[:-1]] for path in paths[1:]]
    np.testing.assert_allclose(np.exp(tree.logq[1:]), after, rtol=1e-4)


def test_worked_example() -> None:
    """Token 1 is followed by 2 with 0.6 and by 3 with 0.4, all others by 0; "1 3" stands in the text."""
    law = np.zeros((4, 4))
    law[:, 0] = 1.0
    law[1] = [0, 0, 0.6, 0.4]
    with np.errstate(divide="ignore"):
        target = TableTarget(np.log(law))
    plain = Bigram(target, without_memo, size=2, depth=1, copy=False)
    [tree] = plain.propose([plain.start(Prompt.of([1, 3, 1]))], [ask(1)])
    assert tree.token_list == [1, 2, 3]
    both = Bigram(target, without_memo, size=3)
    [tree] = both.propose([both.start(Prompt.of([1, 3, 1]))], [ask(1)])
    # A match of one token has odds of 0.21: 3 has 0.21 + 0.79 * 0.4 and 2 has 0.79 * 0.6. The end of the
    # copy goes on with bigrams.
    assert tree.token_list == [1, 3, 0, 0] and tree.shape.parent_list == [-1, 0, 1, 2]
    assert tree.logq is not None
    assert tree.logq[1:].tolist() == pytest.approx([math.log(0.21 + 0.79 * 0.4), 0, 0], rel=1e-5)
    likeliest: Any = both.successors(both.start(Prompt.of([1, 3, 1])), [3, 1])[1]
    assert likeliest[:2] == [
        (2, pytest.approx(0.6)),
        (3, pytest.approx(0.4)),
    ]


def test_what_has_no_probability_is_not_drafted() -> None:
    """Behind token 1 come 2 or 3, behind those only 0, behind 0 only 0."""
    law = np.zeros((4, 4))
    law[:, 0] = 1.0
    law[1] = [0, 0, 0.6, 0.4]
    with np.errstate(divide="ignore"):
        drafter = Bigram(TableTarget(np.log(law)), without_memo, size=50, depth=2, copy=False)
    [tree] = drafter.propose([drafter.start(Prompt.of([1]))], [ask(1)])
    assert tree.token_list == [1, 2, 0, 3, 0]


def test_copies_follow_what_was_committed() -> None:
    drafter = Bigram(TableTarget.random(vocab_size=9, order=1), without_memo, size=4)
    state = drafter.start(Prompt.of([5]))
    text = [5]
    for block in ([6, 7, 8], [1], [5, 6], [7]):
        step = Step(
            TokenTree.chain(text[-1], block[:-1]),
            NO_SCORES,
            Verdict(range(1, len(block)), block[-1], "identical"),
        )
        [state] = drafter.observe([state], [step])
        text += block
    [tree] = drafter.propose([state], [ask(7)])  # 5 6 7 has been followed by 8 1 5
    assert tree.token_list[:4] == [7, 8, 1, 5] and tree.shape.parent_list[:4] == [-1, 0, 1, 2]
    drafter.stop(state)


@pytest.mark.parametrize("options", [{"size": 0}, {"depth": 0}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        Bigram(NO_TARGET, without_memo, **options)
