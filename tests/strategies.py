"""Random trees, samplings and logits for Hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree


@st.composite
def trees(
    draw: st.DrawFn, *, max_nodes: int = 16, vocab_size: int = 4, root: int | None = None, logq: bool = False
) -> TokenTree:
    """Any tree; siblings may carry the same token."""
    num_nodes = draw(st.integers(1, max_nodes))
    parents = [-1, *(draw(st.integers(0, node - 1)) for node in range(1, num_nodes))]
    tokens = draw(st.lists(st.integers(0, vocab_size - 1), min_size=num_nodes, max_size=num_nodes))
    if root is not None:
        tokens[0] = root
    values = (
        draw(st.lists(st.floats(-9, 0, width=32), min_size=num_nodes, max_size=num_nodes)) if logq else None
    )
    return TokenTree(tokens, parents, logq=values)


def samplings(*, greedy: bool = True) -> st.SearchStrategy[Sampling]:
    """Any sampling; without greedy, temperatures above 0 only."""
    temperatures = st.floats(0.1, 3.0)
    return st.builds(
        Sampling,
        temperature=st.just(0.0) | temperatures if greedy else temperatures,
        top_k=st.integers(0, 6),
        top_p=st.floats(0.05, 1.0),
        min_p=st.floats(0.0, 1.0),
        seed=st.integers(0, 2**64 - 1),
    )


def logits(vocab_size: int) -> st.SearchStrategy[np.ndarray]:
    """f32[V] with many ties, some of them at -inf, and one finite entry at least."""
    values = st.sampled_from([-np.inf, -3.0, -1.0, 0.0, 0.5, 2.0]) | st.floats(-9, 9, width=32)
    rows = st.lists(values, min_size=vocab_size, max_size=vocab_size)
    return rows.filter(lambda row: max(row) > -np.inf).map(lambda row: np.array(row, dtype=np.float32))


def extreme_samplings() -> st.SearchStrategy[Sampling]:
    """Options at the ends of what is accepted, of single precision and of double."""
    shares = [5e-324, 1e-300, 1e-46, 1.4e-45, 1e-38, 1e-7, 0.5, 1 - 1e-9, 1 - 1e-16, 1.0]
    return st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 5e-324, 1e-46, 1e-40, 1e-30, 1e-7, 1e-3, 1.0, 1e30, 1e38, 1e300]),
        top_k=st.sampled_from([0, 1, 2, 8, 9, 10, 2**31 - 1]),
        top_p=st.sampled_from(shares),
        min_p=st.sampled_from([0.0, *shares]),
        seed=st.integers(0, 2**64 - 1),
    )


def extreme_logits(vocab_size: int) -> st.SearchStrategy[np.ndarray]:
    """f32[V] of the ends of single precision, infinities and ties, one above -inf at least."""
    ends = [np.inf, -np.inf, 3e38, -3e38, 1e30, 1e8, 1e-45, 0.0, -1.0, 7.0]
    rows = st.lists(st.sampled_from(ends), min_size=vocab_size, max_size=vocab_size)
    return rows.filter(lambda row: max(row) > -np.inf).map(lambda row: np.array(row, dtype=np.float32))
