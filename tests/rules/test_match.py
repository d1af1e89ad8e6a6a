"""The match rule against a walk by token path."""

from __future__ import annotations

import itertools
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from outpace.core.sampling import Sampling
from outpace.core.steps import RowScores
from outpace.core.tree import TokenTree
from outpace.rules.match import Match
from tests.strategies import trees


class Choices:
    def __init__(self, choices: list[int]) -> None:
        self.choices = choices


def judge(tree: TokenTree, choices: list[int]) -> Any:
    return Match().judge(tree, cast("RowScores", Choices(choices)), Sampling(), 0)


@given(trees(), st.data())
def test_the_path_follows_the_choices_as_far_as_the_tree_does(tree: TokenTree, data: st.DataObject) -> None:
    choices = data.draw(st.lists(st.integers(0, 3), min_size=tree.num_nodes, max_size=tree.num_nodes))
    verdict = judge(tree, choices)
    line = [0, *verdict.path]
    for parent, node in itertools.pairwise(line):
        assert tree.parents[node] == parent and tree.tokens[node] == choices[parent]
    assert verdict.token == choices[line[-1]]
    assert all(tree.tokens[child] != verdict.token for child in tree.children(line[-1]))
    assert verdict.exactness == "identical"


def test_examples() -> None:
    chain = TokenTree.chain(7, [1, 2, 3])
    assert (judge(chain, [1, 2, 3, 4]).path, judge(chain, [1, 2, 3, 4]).token) == ([1, 2, 3], 4)
    assert (judge(chain, [1, 9, 3, 4]).path, judge(chain, [1, 9, 3, 4]).token) == ([1], 9)
    assert (judge(chain, [9, 2, 3, 4]).path, judge(chain, [9, 2, 3, 4]).token) == ([], 9)
    tree = TokenTree([7, 1, 2, 5], [-1, 0, 0, 2])
    assert (judge(tree, [2, 0, 5, 6]).path, judge(tree, [2, 0, 5, 6]).token) == ([2, 3], 6)
