"""The oracle itself: its exact law sums up by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, warp
from outpace.core.tree import TokenTree
from outpace.targets import TARGETS
from outpace.targets.table import TableTarget
from tests.rows import on, opened


def test_law_of_a_text_is_the_product_of_its_conditionals() -> None:
    target = TableTarget.random(vocab_size=3, order=2, seed=4)
    sampling = Sampling(temperature=0.8)
    law = target.law_of([2, 1], 2, sampling)
    assert len(law) == 9 and math.isclose(sum(law.values()), 1)
    p, q = warp(target.table[2, 1], sampling), warp(target.table[1, 0], sampling)
    assert math.isclose(law[0, 2], p[0] * q[2])
    assert target.law_of([2, 1], 2, Sampling()) == {
        (a := int(np.argmax(target.table[2, 1])), int(np.argmax(target.table[1, a]))): 1.0
    }


def test_short_texts_are_padded_with_zero() -> None:
    target = TableTarget.random(vocab_size=3, order=2)
    assert np.array_equal(target.after([2]), target.table[0, 2])


def test_misuse_is_refused() -> None:
    target = TableTarget.random(vocab_size=4, order=1)
    [row], _ = opened(target, [[1]])
    with pytest.raises(OutpaceError, match="from 0 to 3"):
        target.score(on([row], [TokenTree.chain(1, [4])]))
    with pytest.raises(OutpaceError, match="from 0 to 3"):
        opened(target, [[-1]])
    target.score(on([row], [TokenTree([1, 2, 3], [-1, 0, 0])]))
    with pytest.raises(AssertionError, match="leads down"):
        target.keep([row], [[1, 2]])
    with pytest.raises(OutpaceError, match="one length"):
        TableTarget(np.zeros((3, 4)))
    with pytest.raises(OutpaceError, match="no tap"):
        target.score(on([row], [TokenTree.root(1)])).hidden("last")


def test_it_is_registered() -> None:
    assert {"native", "table"} <= set(TARGETS.names())
    assert TARGETS.factory("table") is TableTarget
