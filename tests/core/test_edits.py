"""Edits of logits: worked numbers, a second reference, shapes that are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from outpace.core.edits import Edit, Forcing, edit_after, edited, edits_of, forces
from outpace.core.errors import OutpaceError
from outpace.core.sampling import NO_CHOICE, Sampling, choose, warp
from outpace.core.tree import TokenTree
from tests.edits import by_token, random_edit

ROW = np.array([2.0, -2.0, 0.0, 5.0, -1.0], np.float32)


def test_worked_numbers() -> None:
    assert edited(ROW, Edit([1, 2], [-math.inf, 2.0])).tolist() == [2, -math.inf, 2, 5, -1]
    assert edited(ROW, Edit([3, 1, 3], [0.5, 1.0, 0.25])).tolist() == [2, -1, 0, 5.75, -1]
    assert edited(ROW, Edit(repeated=[3, 0, 4, 3, 2], penalty=2.0)).tolist() == [1, -2, 0, 2.5, -2]
    assert edited(ROW, Edit([0, 3], [-4.0, 1.0], repeated=[0, 3], penalty=2.0)).tolist()[::3] == [-4, 3], (
        "biases come before the penalty, and the sign is that of the sum"
    )
    only = [-math.inf, -math.inf, -math.inf, 5, -math.inf]
    for mask in (
        np.array([0b01000], np.uint8),
        np.array([0b01000], np.uint32),
        np.array([0b01000 - 2**31], np.int32),  # what stands behind the vocabulary does not count
        np.array([0, 0, 0, 1, 0], bool),
    ):
        assert edited(ROW, Edit(allowed=mask)).tolist() == only
    assert (
        edited(ROW, Edit([3], [math.inf], allowed=~np.array([0, 0, 0, 1, 0], bool))).tolist()[3] == -math.inf
    )
    assert ROW.tolist() == [2, -2, 0, 5, -1] and edited(ROW, None) is ROW
    assert np.array_equal(edited(ROW, Edit()), ROW)


def test_random_edits_are_those_of_the_second_reference() -> None:
    rng = np.random.default_rng(0)
    fell = 0
    for _ in range(300):
        logits = rng.normal(size=37).astype(np.float32) * 3
        edit = random_edit(rng, 37)
        found = edited(logits, edit)
        assert np.array_equal(found, by_token(logits, edit))
        fell += not np.array_equal(found, by_token(logits, edit, wrong_sign=True))
    assert fell > 100, "dividing negative logits too would be noticed"


def test_masks_are_words_of_32_bits_in_order() -> None:
    rng = np.random.default_rng(1)
    for vocab_size in (1, 7, 8, 31, 32, 33, 64, 100):
        allowed = rng.random(vocab_size) < 0.5
        words = np.zeros((vocab_size + 31) // 32, np.uint32)
        for token in np.flatnonzero(allowed):
            words[token // 32] |= np.uint32(1 << int(token) % 32)
        for mask in (allowed, words, words.view(np.int32), np.repeat(words, 2)[::2]):
            found = edited(np.zeros(vocab_size, np.float32), Edit(allowed=mask))
            assert np.array_equal(found == 0, allowed)


def test_an_edit_keeps_nothing_of_its_callers_arrays() -> None:
    ids, added, repeated = np.array([3], np.int32), np.array([1.0], np.float32), np.array([0], np.int32)
    mask = np.full(1, 0b11111, np.uint32)
    edit = Edit(ids, added, repeated=repeated, penalty=2.0, allowed=mask)
    before = edited(ROW, edit)
    for array in (ids, added, repeated, mask):
        array[:] = 1
    assert np.array_equal(edited(ROW, edit), before)


def test_masks_that_leave_one_token_and_none() -> None:
    for sampling in (Sampling(), Sampling(temperature=0.8, top_k=2, top_p=0.9, min_p=0.1, seed=3)):
        for token in range(5):
            one = edited(ROW, Edit(allowed=np.arange(5) == token))
            assert choose(one[None], sampling, [4]) == [token] and warp(one, sampling)[token] == 1
        none = edited(ROW, Edit(allowed=np.zeros(5, bool)))
        assert choose(none[None], sampling, [4]) == [NO_CHOICE]
        with pytest.raises(OutpaceError, match="every token is forbidden"):
            warp(none, sampling)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ids": [1, 2], "added": [0.5]}, "2 ids and \\(1,\\) added"),
        ({"ids": [1], "added": 0.5}, "1 ids and \\(\\) added"),
        ({"ids": [[1]], "added": [[0.5]]}, "ids are int64.*accepted are token ids"),
        ({"ids": [1.0], "added": [0.5]}, "ids are float64.*accepted are token ids"),
        ({"ids": [-1], "added": [0.5]}, "accepted are token ids >= 0"),
        ({"ids": [2**31], "added": [0.5]}, "accepted are token ids >= 0"),
        ({"ids": [1], "added": ["a"]}, "accepted are numbers"),
        ({"ids": [1], "added": [math.nan]}, "NaN.*accepted are numbers"),
        ({"ids": [3, 1, 3], "added": [math.inf, 1.0, -math.inf]}, "inf and -inf for one token"),
        ({"ids": [[1], [2, 3]], "added": [0.5]}, "ids has rows of different lengths"),
        ({"ids": [1], "added": [1, [2]]}, "added has rows of different lengths"),
        ({"repeated": [[], [2]]}, "repeated has rows of different lengths"),
        ({"allowed": [[1], [2, 3]]}, "mask has rows of different lengths"),
        ({"repeated": [-3], "penalty": 2.0}, "accepted are token ids >= 0"),
        ({"repeated": [True], "penalty": 2.0}, "accepted are token ids"),
        ({"penalty": 0.0}, "penalty is 0.0, accepted are numbers > 0"),
        ({"penalty": -1.0}, "penalty is -1.0"),
        ({"penalty": math.nan}, "penalty is nan"),
        ({"penalty": 1e-300}, "penalty is 1e-300"),
        ({"penalty": math.inf}, "penalty is inf"),
        ({"allowed": np.zeros((1, 2), np.uint32)}, "mask is uint32\\[1, 2\\]"),
        ({"allowed": np.zeros(2, np.int64)}, "mask is int64\\[2\\]"),
        ({"allowed": [1, 2]}, "mask is int64\\[2\\]"),
    ],
)
def test_wrong_shapes_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OutpaceError, match=message) as error:
        Edit(**given)
    assert "accepted" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit([5], [1.0]), "the token 5, accepted are ids from 0 to 4"),
        (Edit(repeated=[1, 5], penalty=2.0), "the token 5, accepted are ids from 0 to 4"),
        (Edit(allowed=np.ones(9, bool)), "2 bytes, accepted are 1 for the 5 tokens"),
        (Edit(allowed=np.ones(2, np.uint32)), "8 bytes, accepted are 1 .*or 1 words"),
        (Edit(allowed=np.ones(0, np.uint8)), "0 bytes, accepted are 1"),
    ],
)
def test_edits_of_another_vocabulary_are_refused(edit: Edit, message: str) -> None:
    with pytest.raises(OutpaceError, match=message):
        edited(ROW, edit)


def test_the_edit_after_a_node_sees_its_path() -> None:
    tree = TokenTree([7, 1, 2, 3, 4], [-1, 0, 1, 0, 3])
    seen: list[list[int]] = []

    def after(path: Any) -> Edit | None:
        seen.append(path)
        return Edit([0], [1.0]) if path == [3, 4] else None

    edits = edits_of(after, tree)
    assert seen == [[], [1], [1, 2], [3], [3, 4]]
    assert edits is not None and [edit is not None for edit in edits] == [False] * 4 + [True]
    assert edits_of(None, tree) is None and edits_of(lambda path: None, tree) is None


def test_a_second_mask_leaves_what_both_do() -> None:
    rng = np.random.default_rng(0)
    for size in (5, 31, 32, 40):
        logits = rng.normal(size=size).astype(np.float32)
        for _ in range(20):
            edit, more = random_edit(rng, size), rng.random(size) < 0.5
            for mask in (Edit(allowed=more).allowed, _words(more)):
                assert mask is not None
                both = edit.within(mask)
                expected = np.where(more, edited(logits, edit), np.float32(-np.inf))
                np.testing.assert_array_equal(edited(logits, both), expected)
                left = [both.allows(token) for token in range(size)]
                assert left == [edit.allows(token) and bool(more[token]) for token in range(size)]
    assert Edit([1], [2.0]).allows(99) and not Edit(allowed=[True]).allows(-1)
    assert not Edit(allowed=[True]).allows(8)


def _words(mask: np.ndarray) -> np.ndarray:
    """A mask as whole words of 32 bits."""
    return np.packbits(np.resize(np.append(mask, [False] * 31), -(-len(mask) // 32) * 32), bitorder="little")


def test_an_edit_behind_a_text_forces_if_the_requests_does() -> None:
    class Sure:
        def __call__(self, text: Any, path: Any) -> Edit | None:
            return Edit([len(text)], [len(path)])

        def forced(self, text: Any, path: Any) -> list[int]:
            return [len(text), len(path)]

    text, sure = [4, 5], Sure()
    after = edit_after(sure, text)
    assert forces(sure) and isinstance(after, Forcing)
    text.append(6)  # the list grows
    assert after.forced([1]) == [3, 1]
    found = after([1])
    assert found is not None and (found.ids.tolist(), found.added.tolist()) == ([3], [1])
    plain = edit_after(lambda text, path: None, text)
    assert not forces(None) and not isinstance(plain, Forcing) and plain([]) is None
