"""Fixed shapes, and chains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.traits import Traits
from outpace.trees.chain import Chain
from outpace.trees.static import Static
from outpace.trees.template import Template, ranks_of
from tests.trees.growing import ROOT, Paths, grow, softmax


def test_widths() -> None:
    tree = grow(Static(widths="3,2,1"), Paths(9))
    assert tree.shape.parent_list == [-1, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9]
    for node in range(tree.num_nodes):
        assert len(tree.children(node)) == [3, 2, 1, 0][tree.shape.depths[node]]


def test_ranks() -> None:
    listed = "0,1,0.0,2,0.1,0.0.0,1.0,0.0.0.0"
    tree = grow(Static(ranks=listed), Paths(9))
    names = {".".join(map(str, ranks)) for ranks in ranks_of(tree)[1:]}
    assert names == set(listed.split(","))


def test_children_are_the_likeliest_in_order() -> None:
    paths = Paths(9)
    tree = grow(Static(widths="4,1"), paths)
    assert tree.token_list[1:5] == np.argsort(-paths.after([ROOT]))[:4].tolist()


def test_fewer_children_where_the_law_has_fewer() -> None:
    """The shape goes by ranks, so a missing node does not move the others."""
    sampling = Sampling(temperature=1.0, top_k=2)
    tree = grow(Static(ranks="0,1,2,2.0,0.0,1.0,1.1,1.2"), Paths(9), sampling)
    assert set(ranks_of(tree)[1:]) == {(0,), (1,), (0, 0), (1, 0), (1, 1)}


@given(st.integers(0, 20), st.sampled_from(["iid", "without_replacement", "hub"]), st.integers(0, 99))
def test_a_smaller_budget_takes_from_the_end_and_keeps_the_draw(budget: int, draw: str, seed: int) -> None:
    sampling = Sampling(temperature=1.0, seed=seed)
    full = grow(Static(widths="2,2,2"), Paths(9), sampling, draw=draw)
    tree = grow(Static(widths="2,2,2"), Paths(9), sampling, draw=draw, budget=budget)
    assert tree.num_nodes == 1 + min(budget, 14)
    assert tree.draw == ("point" if budget == 0 else draw)
    known = dict(zip(ranks_of(full), full.token_list, strict=True))
    kept = ranks_of(tree)  # asserts by itself that no elder sibling went
    assert all(known[ranks] == token for ranks, token in zip(kept, tree.token_list, strict=True))
    gone = set(known) - set(kept)
    assert max(map(len, kept)) <= min((len(ranks) for ranks in gone), default=9)


def test_of_a_template_the_least_worth_goes_first() -> None:
    # A later sibling that is worth more than its elder one must wait for it.
    template = Template({(0,): 0.2, (1,): 0.7, (0, 0): 0.1, (1, 0): 0.5})

    class Policy:
        traits = Traits()
        width = template.width
        expand, grow, prune = template.expand, template.grow, template.prune

    kept = [set(ranks_of(grow(Policy(), Paths(5), budget=budget))[1:]) for budget in range(5)]
    assert kept == [set(), {(0,)}, {(0,), (1,)}, {(0,), (1,), (1, 0)}, {(0,), (1,), (0, 0), (1, 0)}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": "2,x"}, "whole numbers >= 1"),
        ({"widths": "2,0"}, "whole numbers >= 1"),
        ({"widths": ""}, "whole numbers >= 1"),
        ({"widths": "99,99"}, "at most 1024"),
        ({"ranks": "0,2"}, "ranks with 2 but not"),
        ({"ranks": "0.0"}, "ranks with 0.0 but not"),
        ({"ranks": "-1"}, "ranks with -1 but not"),
        ({"ranks": "0;1"}, "such as 0, 1, 0.0"),
    ],
)
def test_options_out_of_range(options: dict[str, str], message: str) -> None:
    with pytest.raises(OutpaceError, match=message):
        Static(**options)


def test_a_chain_is_as_long_as_told() -> None:
    tree = grow(Chain(length=5), Paths(6))
    assert tree.is_chain and tree.num_nodes == 6
    assert grow(Chain(length=5), Paths(6), budget=2).token_list == tree.token_list[:3]
    assert grow(Chain(length=5), Paths(6), depth=3).token_list == tree.token_list[:4]


@given(st.integers(0, 10**6), st.floats(0.05, 0.9), st.sampled_from(["greedy", "chosen", "drawn"]))
def test_a_chain_ends_where_the_draft_grows_unsure(seed: int, min_p: float, how: str) -> None:
    paths = Paths(6, seed=seed)
    sampling = Sampling(temperature=0.0 if how == "greedy" else 0.7, seed=seed)
    policy = Chain(length=8, min_p=min_p)
    tree = grow(policy, paths, sampling, draw="iid", law=how == "drawn")
    longer = grow(Chain(length=9, min_p=0), paths, sampling, draw="iid", law=how == "drawn")
    assert tree.token_list == longer.token_list[: tree.num_nodes]
    assert longer.logq is not None
    for node in range(min(tree.num_nodes, 8)):
        law = softmax(paths.after(longer.token_list[: node + 1]) / (sampling.temperature or 1.0))
        # A law is read before its token is drawn; what is no draw is judged by the token itself.
        sure = law.max() if how != "chosen" else np.exp(longer.logq[node + 1])
        assert (sure >= min_p) == (node + 1 < tree.num_nodes)


def test_options_of_a_chain() -> None:
    with pytest.raises(OutpaceError, match="length=0"):
        Chain(length=0)
    with pytest.raises(OutpaceError, match=r"min_p=1\.5"):
        Chain(min_p=1.5)
