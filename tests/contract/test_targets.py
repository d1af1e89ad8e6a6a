"""Every target: a tree equals its paths, a row ignores its companions, keep equals a fresh row.

"Equal" is to the last bit for a target whose numerics are "bitwise".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.call import Call
from outpace.core.contracts import Cuttable, Drafter, Tapped, Target
from outpace.core.edits import Edit, edited
from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.core.sampling import NO_CHOICE, Sampling, choose, warp
from outpace.core.steps import Scores
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.rules.match import Match
from tests.contract.rows import QUANTISED, VOCAB_SIZE
from tests.edits import random_edit
from tests.fakes import whole
from tests.rows import on, opened
from tests.strategies import samplings, trees

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7]]
TREE = TokenTree([4, 1, 2, 3, 5, 1], [-1, 0, 0, 1, 1, 2])
TREES = [TREE, TokenTree.chain(2, [3, 1, 1, 2]), TokenTree.root(6)]
DRAFTS = [[4, 2], [7], []]  # behind PROMPTS


@contextmanager
def rows_of(target: Target, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    rows, _ = opened(target, prompts)
    try:
        yield rows
    finally:
        target.free(rows)


def assert_same(target: Target, actual: np.ndarray, expected: np.ndarray) -> None:
    if target.exactness == "identical" and target.traits.numerics == "bitwise":
        assert np.array_equal(actual, expected)
    else:
        assert np.allclose(actual, expected, atol=1e-4)


def all_logits(scores: Scores, row: int, tree: TokenTree) -> np.ndarray:
    return scores.logits(row, range(tree.num_nodes))


def test_reading_a_prompt_scores_the_last_token(target: Target) -> None:
    rows, scores = opened(target, PROMPTS)
    together = [scores.logits(row, [0]) for row in range(3)]
    assert all(logits.shape == (1, target.vocab_size) and logits.dtype == np.float32 for logits in together)
    assert [target.length(row) for row in rows] == [len(prompt) for prompt in PROMPTS]
    target.free(rows)
    for prompt, expected in zip(PROMPTS, together, strict=True):
        rows, scores = opened(target, [prompt])
        assert_same(target, scores.logits(0, [0]), expected)
        target.free(rows)
        if len(prompt) > 1:  # the last token may as well be the root of a first step
            with rows_of(target, [prompt[:-1]]) as rows:
                scored = target.score(on(rows, [TokenTree.root(prompt[-1])]))
                assert_same(target, scored.logits(0, [0]), expected)


def test_drafts_behind_prompts_are_scored_and_kept_like_chains(target: Target) -> None:
    rows, scores = opened(target, PROMPTS, DRAFTS)
    chains = [TokenTree.chain(prompt[-1], draft) for prompt, draft in zip(PROMPTS, DRAFTS, strict=True)]
    logits = [all_logits(scores, row, chain) for row, chain in enumerate(chains)]
    assert all(target.length(row) < len(prompt) for row, prompt in zip(rows, PROMPTS, strict=True))
    target.keep(rows, [[1], [1], []])
    assert [target.length(row) for row in rows] == [4, 2, len(PROMPTS[2])]
    for i, (prompt, draft) in enumerate(zip(PROMPTS, DRAFTS, strict=True)):
        for depth in range(1 + len(draft)):
            fresh, expected = opened(target, [[*prompt, *draft[:depth]]])
            assert_same(target, logits[i][[depth]], expected.logits(0, [0]))
            target.free(fresh)
        with rows_of(target, [[*prompt, *draft[:1]]]) as fresh:
            kept = all_logits(target.score(on(rows[i : i + 1], [TREE])), 0, TREE)
            assert_same(target, kept, all_logits(target.score(on(fresh, [TREE])), 0, TREE))
    target.free(rows)


@pytest.mark.parametrize("pending", [[], [7], [7, 0, 3], [1, 2] * 9], ids=len)
def test_what_is_pending_runs_in_front_of_the_tree(target: Target, pending: list[int]) -> None:
    """Scores, kept paths and lengths are those of a row that has read it before."""
    texts = [PROMPTS[0], PROMPTS[1]]
    with rows_of(target, texts) as late, rows_of(target, [[*texts[0], *pending], texts[1]]) as ready:
        trees = [TREE, TREES[1]]
        samplings, positions = [Sampling(temperature=1.0, seed=3)] * 2, [3 + len(pending), 1]

        def behind(row: int, tree: TokenTree) -> Call:
            return Call(row, [*pending, tree.token_list[0]], tree)

        scores = target.score(on(ready, trees))
        expected = [all_logits(scores, row, tree) for row, tree in enumerate(trees)]
        choices, tops = scores.choose(samplings, positions), scores.top(0, [2], 3)[0].tolist()
        scores = target.score([behind(late[0], TREE), Call.on(late[1], TREES[1])])
        for row, tree in enumerate(trees):
            assert_same(target, all_logits(scores, row, tree), expected[row])
        assert scores.choose(samplings, positions) == choices
        assert scores.top(0, [2], 3)[0].tolist() == tops
        target.keep(late, [None, [1]])  # of the first nothing but what was pending before the tree
        assert [target.length(row) for row in late] == [3 + len(pending), 3]
        again = all_logits(target.score([Call.on(late[0], TREE)]), 0, TREE)
        assert_same(target, again, expected[0])
        target.keep(late[:1], [[1, 3]])
        copy = target.fork(late[1])
        target.score([behind(copy, TREES[2])] if pending else [Call.on(copy, TREES[2])])
        target.keep([copy], [()])
        assert target.length(copy) == 4 + len(pending)
        target.free([copy])
        target.score(on(ready, trees))
        target.keep(ready, [[1, 3], [1]])
        for row, other in zip(late, ready, strict=True):
            ours = all_logits(target.score([Call.on(row, TREE)]), 0, TREE)
            assert_same(target, ours, all_logits(target.score([Call.on(other, TREE)]), 0, TREE))


def test_a_tree_may_grow_from_call_to_call(target: Target) -> None:
    """What a call has run need not be run again; nobody can tell."""
    grown = [TREE.prune(range(count)) for count in (1, 2, 4, 6)]
    with rows_of(target, PROMPTS[:2]) as rows, rows_of(target, [[*PROMPTS[0], 7, 0]]) as ready:
        for tree in grown:
            scores = target.score([Call(rows[0], [7, 0, 4], tree), Call.on(rows[1], grown[0])])
            logits = all_logits(scores, 0, tree)
            assert_same(target, logits, all_logits(target.score(on(ready, [tree])), 0, tree))
        tree = TREE.prune([0, 2, 5])  # other nodes than before
        for _ in range(2):
            logits = all_logits(target.score([Call(rows[0], [7, 0, 4], tree)]), 0, tree)
            assert_same(target, logits, all_logits(target.score(on(ready, [tree])), 0, tree))
        target.score([Call(rows[0], [7, 0, 4], TREE)])
        target.keep(rows[:1], [None])
        for one in (grown[2], TREE):
            logits = all_logits(target.score([Call.on(rows[0], one)]), 0, one)
            assert_same(target, logits, all_logits(target.score(on(ready, [one])), 0, one))
        target.score([Call.on(rows[0], TREE)])
        target.keep(rows[:1], [[2, 5]])
        assert target.length(rows[0]) == 8


def test_prompts_that_were_read_with_drafts_can_be_given_back_unkept(target: Target) -> None:
    for _ in range(20):
        rows, _ = opened(target, PROMPTS, DRAFTS)
        target.free(rows)
    with rows_of(target, PROMPTS) as rows:
        assert [target.length(row) for row in rows] == [len(prompt) for prompt in PROMPTS]


@settings(max_examples=20)
@given(tree=trees(vocab_size=VOCAB_SIZE, max_nodes=12))
def test_a_tree_is_its_paths(target: Target, tree: TokenTree) -> None:
    with rows_of(target, [PROMPTS[0]]) as rows:
        scores = target.score(on(rows, [tree]))
        logits = all_logits(scores, 0, tree)
        for path in tree.paths():
            tokens = [tree.token_list[node] for node in path]
            alone = target.score(on(rows, [TokenTree.chain(tokens[0], tokens[1:])]))
            assert_same(target, logits[path], alone.logits(0, range(len(path))))


def test_rows_ignore_their_companions(target: Target) -> None:
    with rows_of(target, PROMPTS) as rows:
        scores = target.score(on(rows, TREES))
        together = [all_logits(scores, i, tree) for i, tree in enumerate(TREES)]
        for order in ([0], [1], [2], [2, 0], [1, 2, 0]):
            scores = target.score(on([rows[i] for i in order], [TREES[i] for i in order]))
            for place, i in enumerate(order):
                assert_same(target, all_logits(scores, place, TREES[i]), together[i])


@pytest.mark.parametrize("path", [[], [1], [2], [1, 3], [1, 4], [2, 5]], ids=str)
def test_keep_equals_a_fresh_row(target: Target, path: list[int]) -> None:
    text = [*PROMPTS[2], *(TREE.token_list[node] for node in (0, *path))]
    with rows_of(target, [PROMPTS[2], PROMPTS[0]]) as rows, rows_of(target, [text]) as fresh:
        target.score(on(rows, [TREE, TREES[1]]))
        target.keep(rows, [path, [1, 2]])
        assert target.length(rows[0]) == len(text) and target.length(rows[1]) == len(PROMPTS[0]) + 3
        for tree in TREES:
            kept = all_logits(target.score(on(rows[:1], [tree])), 0, tree)
            assert_same(target, kept, all_logits(target.score(on(fresh, [tree])), 0, tree))


def test_what_is_not_kept_leaves_no_trace(target: Target) -> None:
    with rows_of(target, [PROMPTS[0]]) as rows:
        first = all_logits(target.score(on(rows, [TREES[1]])), 0, TREES[1])
        target.score(on(rows, [TREE]))
        assert target.length(rows[0]) == len(PROMPTS[0])
        assert_same(target, all_logits(target.score(on(rows, [TREES[1]])), 0, TREES[1]), first)


def test_scores_outlive_keep(target: Target) -> None:
    with rows_of(target, [PROMPTS[0]]) as rows:
        scores = target.score(on(rows, [TREE]))
        before, chosen = all_logits(scores, 0, TREE), scores.choose([Sampling()], [3])
        target.keep(rows, [[1, 3]])
        assert_same(target, all_logits(scores, 0, TREE), before)
        assert scores.choose([Sampling()], [3]) == chosen


def test_forks_go_their_own_ways(target: Target) -> None:
    with rows_of(target, [PROMPTS[0]]) as rows:
        copy = target.fork(rows[0])
        assert copy != rows[0] and target.length(copy) == len(PROMPTS[0])
        expected = all_logits(target.score(on(rows, [TREE])), 0, TREE)
        target.score(on([copy], [TREES[1]]))
        target.keep([copy], [[1, 2]])
        assert (target.length(rows[0]), target.length(copy)) == (len(PROMPTS[0]), len(PROMPTS[0]) + 3)
        assert_same(target, all_logits(target.score(on(rows, [TREE])), 0, TREE), expected)
        target.free([copy])
        assert_same(target, all_logits(target.score(on(rows, [TREE])), 0, TREE), expected)


@pytest.mark.parametrize("length", [1, 8, 18, 19])
def test_a_row_may_begin_with_a_part_of_another(target: Target, length: int) -> None:
    """It is one that has read that part, and neither sees what becomes of the other."""
    if not isinstance(target, Cuttable):
        pytest.skip("its rows cannot be cut")
    with rows_of(target, [PROMPTS[2]]) as rows, rows_of(target, [PROMPTS[2][:length]]) as fresh:
        target.score(on(rows, [TREES[1]]))  # what is scored and not kept is no part of it
        part = target.fork_at(rows[0], length)
        assert target.length(part) == length
        for row in (part, fresh[0]):
            target.score(on([row], [TREE]))
            target.keep([row], [[1, 3]])
        ours = all_logits(target.score(on([part], [TREES[1]])), 0, TREES[1])
        assert_same(target, ours, all_logits(target.score(on(fresh, [TREES[1]])), 0, TREES[1]))
        target.free([part])
        with rows_of(target, [PROMPTS[2]]) as again:
            ours = all_logits(target.score(on(rows, [TREE])), 0, TREE)
            assert_same(target, ours, all_logits(target.score(on(again, [TREE])), 0, TREE))


def test_rows_can_be_had_again_and_again(target: Target) -> None:
    for _ in range(20):
        rows, _ = opened(target, PROMPTS)
        target.free(rows)


@settings(max_examples=30)
@given(chosen=st.lists(samplings(), min_size=3, max_size=3), base=st.integers(0, 10_000))
def test_choices_and_laws_are_those_of_the_logits(target: Target, chosen: list[Sampling], base: int) -> None:
    positions = [base, base + 7, 3]
    with rows_of(target, PROMPTS) as rows:
        scores = target.score(on(rows, TREES))
        choices = scores.choose(chosen, positions)
        for row, (tree, sampling) in enumerate(zip(TREES, chosen, strict=True)):
            logits = all_logits(scores, row, tree)
            noise_positions = (tree.depth() + positions[row] + 1).tolist()
            assert choices[row] == choose(logits, sampling, noise_positions)
            assert all(type(choice) is int for choice in choices[row])
            for node in range(tree.num_nodes):
                law = scores.law(row, node, sampling)
                assert np.allclose(law, warp(logits[node], sampling), atol=1e-5)


EDITED = [
    Sampling(),
    Sampling(temperature=0.9, seed=11),
    Sampling(temperature=0.9, top_p=0.95, seed=11),
    Sampling(temperature=1.4, top_k=7, seed=12),
    Sampling(temperature=0.6, top_k=9, top_p=0.9, min_p=0.02, seed=13),
    Sampling(temperature=3.0, min_p=0.1, seed=14),
]


def test_edits_of_every_kind_come_before_the_choice(target: Target) -> None:
    """The choice of the reference, in trees and chains, with and without companions that have edits."""
    rng = np.random.default_rng(0)
    with rows_of(target, PROMPTS) as rows:
        scores = target.score(on(rows, TREES))
        for number in range(18):
            samplings = [EDITED[(number + row) % len(EDITED)] for row in range(3)]
            edits: list[list[Edit | None] | None] = [
                [
                    random_edit(rng, target.vocab_size) if rng.random() < 0.8 else None
                    for _ in range(tree.num_nodes)
                ]
                for tree in TREES
            ]
            if number % 3 == 0:
                edits[number % 2] = None
            choices = scores.choose(samplings, [5, 9, 2], edits)
            for row, (tree, position, some) in enumerate(zip(TREES, (5, 9, 2), edits, strict=True)):
                logits, positions = all_logits(scores, row, tree), (tree.depth() + position + 1).tolist()
                given = some or [None] * tree.num_nodes
                right = np.stack([edited(*pair) for pair in zip(logits, given, strict=True)])
                assert choices[row] == choose(right, samplings[row], positions)


def test_a_penalty_makes_tokens_rarer_whatever_the_sign_of_their_logits(target: Target) -> None:
    every = np.arange(target.vocab_size)
    with rows_of(target, PROMPTS[:1]) as rows:
        scores = target.score(on(rows, [TokenTree.root(1)]))
        best, second = scores.top(0, [0], 2)[0][0].tolist()
        for sign in (-1, 1):
            edit = Edit(every, np.full(len(every), 1000.0 * sign), repeated=[best], penalty=4.0)
            assert scores.choose([Sampling()], [3], [[edit]]) == [[second]]


def test_masks_that_leave_one_token_or_none(target: Target) -> None:
    none = Edit(allowed=np.zeros(target.vocab_size, bool))
    with rows_of(target, PROMPTS[:1]) as rows:
        scores = target.score(on(rows, [TokenTree.chain(1, [2, 3])]))
        for sampling in EDITED:
            for token in (0, target.vocab_size // 2, target.vocab_size - 1):
                one = Edit(allowed=np.arange(target.vocab_size) == token)
                assert scores.choose([sampling], [4], [[one, None, one]])[0][::2] == [token, token]
                assert scores.choose([sampling], [4], [[one, none, one]])[0] == [token, NO_CHOICE, token]


@pytest.mark.parametrize("sampling", EDITED[:2], ids=str)
@pytest.mark.parametrize("drafter", [NoDraft(), NGram()], ids=["none", "ngram"])
def test_a_text_with_no_token_left_ends_in_one_error(
    target: Target, sampling: Sampling, drafter: Drafter
) -> None:
    def stops(text: Sequence[int], path: Sequence[int]) -> Edit:
        last = len(text) + len(path) > 10
        return Edit(
            allowed=np.zeros(target.vocab_size, bool) if last else np.arange(target.vocab_size) % 9 == 3
        )

    request = Request([3, 5, 3, 5, 3], sampling, 12, eos_ids=frozenset(), edit=stops)
    with pytest.raises(OutpaceError, match=r"no token to choose.* or every token is forbidden"):
        whole(generate(target, drafter, Match(), request))
    wrong = Edit(allowed=np.ones(target.vocab_size + 32, bool))
    request = Request([3, 5, 3], sampling, 12, edit=lambda text, path: wrong)
    with pytest.raises(OutpaceError, match=f"mask has .* accepted .* {target.vocab_size} tokens"):
        whole(generate(target, drafter, Match(), request))


def test_top_ranks_the_raw_logits(target: Target) -> None:
    with rows_of(target, PROMPTS) as rows:
        scores = target.score(on(rows, TREES))
        for row, node in ((0, 0), (0, 5), (1, 2), (2, 0)):
            logits = scores.logits(row, [node])[0]
            ids, values = (found[0] for found in scores.top(row, [node], 5))
            assert list(ids) == sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:5]
            assert_same(target, np.asarray(values), logits[ids])


def test_the_context_has_an_end(target: Target) -> None:
    full = [i % VOCAB_SIZE for i in range(target.context_length)]
    with rows_of(target, [full]) as rows:
        assert target.length(rows[0]) == target.context_length
    with pytest.raises(PromptTooLong) as error:
        opened(target, [[*full, 1]])
    assert str(target.context_length) in str(error.value) and str(target.context_length + 1) in str(
        error.value
    )
    rows, scores = opened(target, [full[:-2]], [[1, 2]])
    assert scores.logits(0, [2]).shape == (1, target.vocab_size)
    target.free(rows)
    with rows_of(target, [full[:-3]]) as rows:
        scores = target.score(on(rows, [TokenTree.chain(1, [2, 3])]))
        assert scores.logits(0, [2]).shape == (1, target.vocab_size)
        with pytest.raises(ValueError, match=str(target.context_length)):
            target.score(on(rows, [TokenTree.chain(1, [2, 3, 4])]))
        target.score(on(rows, [TokenTree.chain(1, [2, 3])]))
        target.keep(rows, [[1, 2]])
        assert target.length(rows[0]) == target.context_length


def test_an_empty_prompt_is_refused(target: Target) -> None:
    with pytest.raises(OutpaceError):
        opened(target, [[]])


def test_it_says_what_it_is(target: Target) -> None:
    assert target.exactness in ("identical", "distribution", "lossy")
    assert all(0 <= token < target.vocab_size for token in target.eos_ids)


def tolerance(
    factory: Callable[[Path], Target], states: np.ndarray, weight: np.ndarray
) -> np.ndarray | np.floating:
    """[n, M]: how far f32[n, K] times f32[M, K] may be off, of floats a part in a thousand of the largest."""
    if factory in QUANTISED:
        return tolerance_in_8_bit(states, weight)
    return 1e-3 * np.abs(states @ weight.T).max()


def tolerance_in_8_bit(states: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[n, M].

    In 8 bit a value is off by half a step, 1/254 of the largest of its group, and a scale in half precision
    by 2^-11: so at most is each of the two factors of each of the K products.
    """
    largest: np.ndarray = np.abs(states).max(axis=1)[:, None] * np.abs(weight).max(axis=1)
    return weight.shape[1] * largest * ((1 + 1 / 254) * (1 + 1 / 254 + 2**-11) - 1)


def test_hidden_states_are_those_of_the_path(tapped: Tapped) -> None:
    tapped.tap("final", "0")
    with rows_of(tapped, PROMPTS) as rows:
        starts = np.cumsum([0, *(tree.num_nodes for tree in TREES)])
        for tap in ("0", "final"):
            together = tapped.score(on(rows, TREES)).hidden(tap)
            assert together.shape == (starts[-1], tapped.hidden_size) and together.dtype == np.float32
            for row, (tree, start) in enumerate(zip(TREES, starts[:-1], strict=True)):
                for path in tree.paths():
                    tokens = [tree.token_list[node] for node in path]
                    alone = tapped.score(on([rows[row]], [TokenTree.chain(tokens[0], tokens[1:])]))
                    assert_same(tapped, together[start + np.array(path)], alone.hidden(tap))


def test_unknown_taps_are_refused(tapped: Tapped) -> None:
    for name in ("99", "first", "-1"):
        with pytest.raises(OutpaceError, match=r"accepted are .*final"):
            tapped.tap(name)


def test_logits_are_the_projection_of_the_final_states(
    tapped: Tapped, factory: Callable[[Path], Target]
) -> None:
    tapped.tap("final")
    whole = tapped.projection()
    assert whole.num_outputs == tapped.vocab_size
    ids = np.array([5, 0, 3, 3, tapped.vocab_size - 1])
    some = tapped.projection(ids)
    assert some.num_outputs == len(ids)
    weight = whole(np.eye(tapped.hidden_size, dtype=np.float32)).T
    with rows_of(tapped, PROMPTS) as rows:
        scores = tapped.score(on(rows, TREES))
        logits = np.concatenate([all_logits(scores, row, tree) for row, tree in enumerate(TREES)])
        states = scores.hidden("final")
        assert np.abs(whole(states) - logits).max() <= 1e-3 * np.abs(logits).max()
        assert (np.abs(some(states) - logits[:, ids]) <= tolerance(factory, states, weight[ids])).all()


def test_products_are_those_of_numpy(tapped: Tapped, factory: Callable[[Path], Target]) -> None:
    rng = np.random.default_rng(0)
    for shape in ((48, tapped.hidden_size), (50, 40), (7, 96)):
        weight = rng.standard_normal(shape).astype(np.float32)
        x = rng.standard_normal((9, shape[1])).astype(np.float32)
        product = tapped.product(weight)
        assert product.num_outputs == shape[0]
        assert product(x).dtype == np.float32
        assert (np.abs(product(x) - x @ weight.T) <= tolerance(factory, x, weight)).all()
        assert_same(tapped, product(x[4:5]), product(x)[4:5])
        rounded = product.rounded()
        assert rounded.num_outputs == shape[0]
        assert (np.abs(rounded(x) - x @ weight.T) <= tolerance_in_8_bit(x, weight)).all()


def test_products_leave_the_scores_as_they_are(tapped: Tapped) -> None:
    tapped.tap("final")
    product = tapped.product(np.ones((300, 200), np.float32))
    with rows_of(tapped, PROMPTS) as rows:
        scores = tapped.score(on(rows, TREES))
        states, logits = scores.hidden("final"), all_logits(scores, 0, TREE)
        chosen = scores.choose([Sampling()] * 3, [3, 1, 19])
        scores = tapped.score(on(rows, TREES))
        product(np.ones((90, 200), np.float32))
        assert scores.choose([Sampling()] * 3, [3, 1, 19]) == chosen
        product(np.ones((1, 200), np.float32))
        assert_same(tapped, scores.hidden("final"), states)
        assert_same(tapped, all_logits(scores, 0, TREE), logits)


def test_a_second_load_has_the_same_fingerprint(
    tapped: Tapped, factory: Callable[[Path], Target], tmp_path: Path
) -> None:
    again = factory(tmp_path)
    assert isinstance(again, Tapped)
    assert tapped.fingerprint() == again.fingerprint() == tapped.fingerprint() != ""
