"""TokenTree against slow definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.steps import Candidates
from outpace.core.tree import Shape, TokenTree
from tests.strategies import trees


def ancestors(tree: TokenTree, node: int) -> list[int]:
    """The node and its ancestors, by walking up."""
    line = [node]
    while tree.parents[line[-1]] >= 0:
        line.append(int(tree.parents[line[-1]]))
    return line


def texts(tree: TokenTree) -> set[tuple[int, ...]]:
    """The token paths of all nodes, root included: what a tree says."""
    return {
        tuple(tree.token_list[i] for i in reversed(ancestors(tree, node))) for node in range(tree.num_nodes)
    }


@given(trees())
def test_mask_is_reachability_and_depth_its_row_sum(tree: TokenTree) -> None:
    expected = np.zeros((tree.num_nodes, tree.num_nodes), dtype=bool)
    for node in range(tree.num_nodes):
        expected[node, ancestors(tree, node)] = True
    assert np.array_equal(tree.mask(), expected)
    assert np.array_equal(tree.depth(), expected.sum(axis=1) - 1)
    assert tree.shape.depths == tree.depth().tolist()
    assert tree.shape.height == max(tree.shape.depths)
    assert tree.depth().dtype == tree.tokens.dtype == tree.parents.dtype == np.int32


@given(trees())
def test_paths_end_at_the_leaves_and_children_invert_parents(tree: TokenTree) -> None:
    parents = tree.parents.tolist()
    assert [tree.children(node) for node in range(tree.num_nodes)] == [
        [child for child, parent in enumerate(parents) if parent == node] for node in range(tree.num_nodes)
    ]
    assert [path[-1] for path in tree.paths()] == [n for n in range(tree.num_nodes) if n not in parents]
    assert all(path == list(reversed(ancestors(tree, path[-1]))) for path in tree.paths())
    assert all(tree.path_to(node) == ancestors(tree, node)[::-1] for node in range(tree.num_nodes))


@given(trees(), st.integers(0, 4))
def test_child_is_the_first_with_the_token(tree: TokenTree, token: int) -> None:
    for node in range(tree.num_nodes):
        same = [child for child in tree.children(node) if tree.tokens[child] == token]
        assert tree.child(node, token) == (same[0] if same else -1)


@given(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=12))
def test_chain_round_trip(root: int, drafts: list[int]) -> None:
    tree = TokenTree.chain(root, drafts)
    slow = TokenTree([root, *drafts], range(-1, len(drafts)))
    assert tree.is_chain and tree.token_list == [root, *drafts] == tree.tokens.tolist()
    assert np.array_equal(tree.parents, slow.parents) and np.array_equal(
        tree.mask(), np.tri(len(drafts) + 1) > 0
    )
    assert tree.paths() == [list(range(len(drafts) + 1))]
    for node, token in itertools.product(range(tree.num_nodes), range(10)):
        assert tree.child(node, token) == slow.child(node, token)


@given(trees())
def test_is_chain_only_for_chains(tree: TokenTree) -> None:
    assert tree.is_chain == (tree.parents.tolist() == list(range(-1, tree.num_nodes - 1)))


def test_chains_of_one_length_share_their_shape() -> None:
    assert TokenTree.chain(1, [2, 3]).mask() is TokenTree.chain(4, [5, 6]).mask()
    assert TokenTree.chain(1, np.array([2, 3])).token_list == [1, 2, 3]
    assert all(type(token) is int for token in TokenTree.chain(1, np.array([2, 3])).token_list)


def test_lists_that_are_a_line_share_their_shape_and_others_are_checked() -> None:
    line = TokenTree.of([5, 6, 7], [-1, 0, 1])
    assert line.shape is TokenTree.chain(5, [6, 7]).shape and line.token_list == [5, 6, 7]
    tree = TokenTree.of([5, 6, 7], [-1, 0, 0])
    assert not tree.shape.is_chain and tree.shape.parent_list == [-1, 0, 0] and tree.token_list == [5, 6, 7]
    with pytest.raises(ValueError, match="parents"):
        TokenTree.of([5, 6], [-1, 1])


@given(st.lists(trees(root=0), min_size=1, max_size=4))
def test_merge_is_the_trie_union(parts: list[TokenTree]) -> None:
    merged = TokenTree.merge(*parts)
    assert texts(merged) == set().union(*map(texts, parts))
    assert merged.num_nodes == len(texts(merged))
    assert merged.draw == "point" and merged.logq is None


def test_merge_refuses_another_root_and_nothing() -> None:
    with pytest.raises(ValueError, match="share the root"):
        TokenTree.merge(TokenTree.root(1), TokenTree.root(2))
    with pytest.raises(ValueError, match="one or more"):
        TokenTree.merge()


@given(trees(logq=True), st.data())
def test_prune_closes_under_ancestors(tree: TokenTree, data: st.DataObject) -> None:
    nodes = data.draw(st.lists(st.integers(0, tree.num_nodes - 1), max_size=6))
    kept = tree.shape.closure(nodes)
    assert kept == sorted({0}.union(*(ancestors(tree, node) for node in nodes)))
    pruned = tree.prune(nodes)
    assert pruned.token_list == [tree.token_list[node] for node in kept]
    assert [kept[p] if p >= 0 else -1 for p in pruned.parents] == tree.parents[kept].tolist()
    assert pruned.logq is not None and tree.logq is not None
    assert np.array_equal(pruned.logq, tree.logq[kept])


def drawn(draw: str) -> TokenTree:
    laws = [np.full(4, 0.25), np.array([0.1, 0.2, 0.3, 0.4]), None, None]
    return TokenTree([0, 1, 2, 3], [-1, 0, 0, 1], draw=draw, logq=[0, -1, -2, -3], laws=laws)  # type: ignore[arg-type]


@pytest.mark.parametrize("draw", ["iid", "without_replacement"])
def test_prune_downgrades_a_draw_unless_nothing_was_cut(draw: str) -> None:
    tree = drawn(draw)
    assert tree.prune([2, 3]) is tree
    assert tree.prune([3]).draw == "point"
    assert tree.prune([1]).draw == "point" and tree.prune([1], blind=True).draw == draw


@pytest.mark.parametrize("draw", ["iid", "without_replacement"])
def test_fit_downgrades_a_draw_unless_whole_levels_were_cut(draw: str) -> None:
    tree = drawn(draw)
    assert tree.fit(0, vocab_size=4, budget=3, depth=2) is tree
    shallow = tree.fit(0, vocab_size=4, budget=3, depth=1)
    assert shallow.draw == draw and shallow.token_list == [0, 1, 2]
    assert shallow.laws is not None and np.array_equal(shallow.laws[0], np.full(4, 0.25))  # type: ignore[arg-type]
    assert tree.fit(0, vocab_size=4, budget=2, depth=2).draw == "point"
    assert tree.fit(0, vocab_size=3, budget=3, depth=2).draw == "point"


@given(trees(vocab_size=6), st.integers(0, 5), st.integers(0, 8), st.integers(0, 5), st.integers(1, 6))
def test_fit_leaves_what_a_target_may_score(
    tree: TokenTree, root: int, budget: int, depth: int, vocab_size: int
) -> None:
    fitted = tree.fit(root, vocab_size=vocab_size, budget=budget, depth=depth)
    assert fitted.token_list[0] == root
    assert fitted.num_nodes - 1 <= budget and fitted.shape.height <= depth
    assert all(token < vocab_size for token in fitted.token_list[1:])
    if tree.token_list[0] != root:
        assert fitted.num_nodes == 1
        return
    allowed = {
        text
        for text in texts(tree)
        if len(text) - 1 <= depth and all(token < vocab_size for token in text[1:])
    }
    assert texts(fitted) <= allowed
    if tree.num_nodes - 1 <= budget and root < vocab_size:
        assert texts(fitted) == allowed


def test_fit_keeps_the_beginning_of_a_chain() -> None:
    tree = TokenTree.chain(5, [1, 2, 99, 3])
    assert tree.fit(5, vocab_size=50, budget=9, depth=9).token_list == [5, 1, 2]
    assert tree.fit(5, vocab_size=100, budget=3, depth=9).token_list == [5, 1, 2, 99]
    assert tree.fit(5, vocab_size=100, budget=9, depth=2).token_list == [5, 1, 2]
    assert TokenTree.chain(5, [-1, 2]).fit(5, vocab_size=50, budget=9, depth=9).token_list == [5]
    assert TokenTree.chain(5, [2**40]).fit(5, vocab_size=50, budget=9, depth=9).token_list == [5]


@pytest.mark.parametrize("parents", [[], [0], [-1, 1], [-1, -1], [-1, 0, 2], [[-1]]])
def test_malformed_parents_are_refused(parents: list[int]) -> None:
    with pytest.raises(ValueError, match="parents"):
        Shape(parents)


def test_malformed_trees_are_refused() -> None:
    with pytest.raises(ValueError, match="as many tokens"):
        TokenTree([1, 2], [-1])
    with pytest.raises(ValueError, match="point, iid, without_replacement"):
        TokenTree([1], [-1], draw="beam")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="logq"):
        TokenTree([1, 2], [-1, 0], logq=[0.0])
    with pytest.raises(ValueError, match="laws"):
        TokenTree([1, 2], [-1, 0], laws=[None])
    with pytest.raises(ValueError, match="needs the law"):
        TokenTree([1, 2], [-1, 0], draw="iid", laws=[None, np.ones(3)])
    with pytest.raises(ValueError, match="not in the tree"):
        TokenTree.root(1).prune([1])


@pytest.mark.parametrize(("tokens", "logq"), [([1, 2, 3], [0.0, 0.0]), ([1, 2], [0.0]), ([1, 2], [0.0] * 3)])
def test_grown_trees_have_a_token_and_a_logq_per_node(tokens: list[int], logq: list[float]) -> None:
    with pytest.raises(AssertionError, match="per node"):
        TokenTree.grown(tokens, [-1, 0], logq)


@pytest.mark.parametrize(
    ("tokens", "logq", "num_laws"),
    [((1, 3), (1, 3), 0), ((2, 3), (2, 2), 2), ((2,), (2,), 2), ((2, 3), (2, 3), 1)],
)
def test_candidates_have_one_shape(tokens: tuple[int, ...], logq: tuple[int, ...], num_laws: int) -> None:
    laws = [np.zeros(5)] * num_laws
    with pytest.raises(AssertionError, match="F, K"):
        Candidates([0, 1], np.zeros(tokens, np.int32), np.zeros(logq, np.float32), laws, "point")


def test_arrays_are_read_only() -> None:
    tree = TokenTree.chain(1, [2])
    for array in (tree.tokens, tree.parents, tree.depth(), tree.mask()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
