"""A proposal as a parent array: depth, ancestor mask, paths, trie union and pruning are derived here only.

Node 0 is the root: the last committed token, whose keys and values are not cached yet. Every other node is
a drafted token and `parents[i] < i`. A chain is the tree whose node i hangs on node i - 1. What depends on
the parent array alone lives in a `Shape`, which trees share: all chains of one length have one mask,
computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Draw = Literal["point", "iid", "without_replacement", "hub"]


class Shape:
    """A parent array and what follows from it; frozen, arrays are read-only.

    parents  i32[N] with parents[0] = -1 and 0 <= parents[i] < i; `parent_list` holds the same as Python ints.
    depths   the number of edges between each node and the root, as Python ints; `height` is the largest.
    """

    __slots__ = (
        "_children",
        "_depth",
        "_mask",
        "_paths",
        "depths",
        "height",
        "is_chain",
        "num_nodes",
        "parent_list",
        "parents",
    )

    def __init__(self, parents: ArrayLike) -> None:
        array = _frozen(parents, np.int32)
        listed: list[int] = array.tolist()
        if array.ndim != 1 or not listed or listed[0] != -1:
            raise ValueError("parents must be a list of N >= 1 node ids that begins with -1 (the root)")
        depths = [0]
        for node in range(1, len(listed)):
            if not 0 <= listed[node] < node:
                raise ValueError(f"parents[{node}] is {listed[node]}, accepted are 0 to {node - 1}")
            depths.append(depths[listed[node]] + 1)
        self.parents: NDArray[np.int32] = array
        self.parent_list: list[int] = listed
        self.depths: list[int] = depths
        self.num_nodes: int = len(listed)
        self.height: int = max(depths)
        self.is_chain: bool = self.height == self.num_nodes - 1
        self._depth: NDArray[np.int32] | None = None
        self._mask: NDArray[np.bool_] | None = None
        self._paths: list[list[int]] | None = None
        self._children: list[list[int]] | None = None

    @classmethod
    def chain(cls, num_nodes: int) -> Shape:
        """The shared shape of a root with `num_nodes - 1` tokens in a line."""
        shape = _CHAINS.get(num_nodes)
        if shape is None:
            shape = _CHAINS[num_nodes] = cls(range(-1, num_nodes - 1))
        return shape

    def depth(self) -> NDArray[np.int32]:
        """i32[N]: the number of edges between a node and the root."""
        if self._depth is None:
            self._depth = _frozen(self.depths, np.int32)
        return self._depth

    def mask(self) -> NDArray[np.bool_]:
        """bool[N, N]: mask[i, j] tells whether node j is node i or one of its ancestors."""
        if self._mask is None:
            mask = np.eye(self.num_nodes, dtype=np.bool_)
            for node in range(1, self.num_nodes):
                mask[node] |= mask[self.parent_list[node]]
            mask.flags.writeable = False
            self._mask = mask
        return self._mask

    def children(self, node: int) -> list[int]:
        """Ids of the nodes that hang on `node`, ascending (the order in which they were drawn)."""
        if self._children is None:
            self._children = [[] for _ in range(self.num_nodes)]
            for child, parent in enumerate(self.parent_list[1:], start=1):
                self._children[parent].append(child)
        return self._children[node]

    def path_to(self, node: int) -> list[int]:
        """Node ids from the root (0, included) to `node` (included)."""
        path = [node]
        while node:
            node = self.parent_list[node]
            path.append(node)
        return path[::-1]

    def paths(self) -> list[list[int]]:
        """One `path_to` for each leaf, leaves ascending."""
        if self._paths is None:
            self._paths = [self.path_to(node) for node in range(self.num_nodes) if not self.children(node)]
        return self._paths

    def closure(self, nodes: Iterable[int]) -> list[int]:
        """The nodes with all their ancestors and the root, ascending: the ids that survive a `prune`."""
        kept: set[int] = {0}
        for node in nodes:
            if not 0 <= node < self.num_nodes:
                raise ValueError(f"node {node} is not in the tree, accepted are 0 to {self.num_nodes - 1}")
            while node not in kept:
                kept.add(node)
                node = self.parent_list[node]
        return sorted(kept)


_CHAINS: dict[int, Shape] = {}


class TokenTree:
    """Drafted tokens on a shape; frozen.

    tokens  i32[N]; token ids, tokens[0] is the root's. `token_list` is the same as Python ints.
    parents i32[N], a `Shape`, or anything that makes one.
    draw    how the children of each node were chosen, in the order of their ids:
            "point"               in any way that ignores the rule's coins (always safe);
            "iid"                 independent draws from laws[node];
            "without_replacement" successive draws from laws[node] without the tokens already taken;
            "hub"                 two draws from laws[node], joined so that its likeliest token is one of them
                                  (`rules/spechub.py`).
    logq    f32[N]: log-probability that the drafter gave each token after its parent (the root's is unused).
    laws    one f32[V] or None per node: the law from which the node's children were drawn. A draw other than
            "point" needs it for every node that has children.
    sources says for each node who drafted it ("" for the root), where a drafter of several sources tells.
    learn   is told, where somebody has drafted it who learns from it, what of it was scored, and the tokens
            that came after the root: nodes that were left out since do not matter.
    """

    __slots__ = ("_array", "_index", "_list", "draw", "laws", "learn", "logq", "shape", "sources")

    def __init__(
        self,
        tokens: ArrayLike,
        parents: Shape | ArrayLike,
        *,
        draw: Draw = "point",
        logq: ArrayLike | None = None,
        laws: Sequence[NDArray[np.floating] | None] | None = None,
    ) -> None:
        self.shape: Shape = parents if isinstance(parents, Shape) else Shape(parents)
        self._array: NDArray[np.int32] | None = _frozen(tokens, np.int32)
        self._list: list[int] = self._array.tolist()
        self._index: dict[tuple[int, int], int] | None = None
        self.draw: Draw = draw
        self.sources: Callable[[], list[str]] | None = None
        self.learn: Callable[[TokenTree, Sequence[int]], None] | None = None
        self.logq: NDArray[np.float32] | None = None if logq is None else _frozen(logq, np.float32)
        self.laws: tuple[NDArray[np.floating] | None, ...] | None = None if laws is None else tuple(laws)
        num_nodes = self.shape.num_nodes
        if self._array.shape != (num_nodes,):
            raise ValueError(f"a tree of {num_nodes} nodes needs as many tokens, got {self._array.shape}")
        if draw not in get_args(Draw):
            raise ValueError(f"unknown draw {draw!r}, accepted are {', '.join(get_args(Draw))}")
        if self.logq is not None and self.logq.shape != (num_nodes,):
            raise ValueError(f"logq must have one entry per node ({num_nodes}), got shape {self.logq.shape}")
        if self.laws is not None and len(self.laws) != num_nodes:
            raise ValueError(f"laws must have one entry per node ({num_nodes}), got {len(self.laws)}")
        if draw != "point" and any(self.law(node) is None for node in set(self.shape.parent_list[1:])):
            raise ValueError(f'draw "{draw}" needs the law of every node that has children; use draw="point"')

    @classmethod
    def root(cls, token: int) -> TokenTree:
        """A tree that proposes nothing."""
        return cls.chain(token, ())

    @classmethod
    def chain(cls, token: int, drafts: Iterable[int]) -> TokenTree:
        """The last committed token and the tokens drafted after it, in a line. Hot path: checks nothing."""
        tree = cls.__new__(cls)
        tree._list = [token, *map(int, drafts)]
        tree.shape = Shape.chain(len(tree._list))
        tree._array = tree._index = tree.logq = tree.laws = tree.sources = tree.learn = None
        tree.draw = "point"
        return tree

    @classmethod
    def of(cls, tokens: list[int], parents: list[int]) -> TokenTree:
        """A "point" tree from lists; all lines of a length share a shape."""
        if all(parent == node - 1 for node, parent in enumerate(parents)):
            return cls.chain(tokens[0], tokens[1:])
        return cls(tokens, parents)

    @classmethod
    def grown(cls, tokens: list[int], parents: list[int], logq: Sequence[float]) -> TokenTree:
        """A "point" tree from lists that nobody else will change. Hot path: checks parents and lengths."""
        tree = cls.__new__(cls)
        tree._list = tokens
        tree.shape = Shape(parents)
        tree._array = tree._index = tree.laws = tree.sources = tree.learn = None
        tree.logq = _frozen(logq, np.float32)
        tree.draw = "point"
        assert len(tokens) == tree.shape.num_nodes == len(tree.logq), "one token and one logq per node"
        return tree

    @classmethod
    def merge(cls, *trees: TokenTree) -> TokenTree:
        """Trie union: the tree whose set of token paths is the union of theirs, each path once.

        All trees must share the root's token. Nodes of earlier trees come first. Which law a merged node
        was drawn from is no longer known, so the result is a "point" tree without logq and laws.
        """
        if not trees or any(tree._list[0] != trees[0]._list[0] for tree in trees):
            raise ValueError("merge needs one or more trees that share the root's token")
        tokens, parents, index = [trees[0]._list[0]], [-1], dict[tuple[int, int], int]()
        for tree in trees:
            ids = [0]
            for token, parent in zip(tree._list[1:], tree.shape.parent_list[1:], strict=True):
                node = index.setdefault((ids[parent], token), len(tokens))
                if node == len(tokens):
                    tokens.append(token)
                    parents.append(ids[parent])
                ids.append(node)
        return cls(tokens, parents)

    @property
    def tokens(self) -> NDArray[np.int32]:
        """i32[N], read-only."""
        if self._array is None:
            self._array = _frozen(self._list, np.int32)
        return self._array

    @property
    def token_list(self) -> list[int]:
        """The tokens as Python ints; not to be changed."""
        return self._list

    @property
    def parents(self) -> NDArray[np.int32]:
        """i32[N], read-only; parents[0] = -1."""
        return self.shape.parents

    @property
    def num_nodes(self) -> int:
        """N: the root and the drafted tokens."""
        return len(self._list)

    @property
    def is_chain(self) -> bool:
        """Whether every node hangs on the one before it."""
        return self.shape.is_chain

    def depth(self) -> NDArray[np.int32]:
        """See `Shape.depth`."""
        return self.shape.depth()

    def mask(self) -> NDArray[np.bool_]:
        """See `Shape.mask`."""
        return self.shape.mask()

    def paths(self) -> list[list[int]]:
        """See `Shape.paths`."""
        return self.shape.paths()

    def path_to(self, node: int) -> list[int]:
        """See `Shape.path_to`."""
        return self.shape.path_to(node)

    def children(self, node: int) -> list[int]:
        """See `Shape.children`."""
        return self.shape.children(node)

    def child(self, node: int, token: int) -> int:
        """The first child of `node` that carries `token`, or -1."""
        tokens = self._list
        if self.shape.is_chain:
            node += 1
            return node if node < len(tokens) and tokens[node] == token else -1
        if self._index is None:
            self._index = {}
            for child, parent in enumerate(self.shape.parent_list):
                self._index.setdefault((parent, tokens[child]), child)
        return self._index.get((node, token), -1)

    def law(self, node: int) -> NDArray[np.floating] | None:
        """f32[V]: the law from which the children of `node` were drawn, where the drafter gave it."""
        return None if self.laws is None else self.laws[node]

    def extend(
        self,
        parents: Sequence[int],
        tokens: Sequence[int],
        *,
        logq: Sequence[float] | None,
        laws: Mapping[int, NDArray[np.floating]],
        draw: Draw,
    ) -> TokenTree:
        """The tree with leaves added: their parents (nodes of this tree), tokens and log-probabilities.

        `laws` are those of the parents. Two draws in one tree make a "point" tree. Leaves without
        log-probabilities make a tree without.
        """
        if not tokens:
            return self
        known = [0.0] * self.num_nodes if self.logq is None else self.logq.tolist()
        all_laws = [*(self.laws or [None] * self.num_nodes), *[None] * len(tokens)]
        for node, law in laws.items():
            all_laws[node] = law
        return TokenTree(
            [*self._list, *tokens],
            [*self.shape.parent_list, *parents],
            draw=draw if self.num_nodes == 1 or draw == self.draw else "point",
            logq=None if logq is None else [*known, *logq],
            laws=all_laws,
        )

    def prune(self, nodes: Iterable[int], *, blind: bool = False) -> TokenTree:
        """The tree of these nodes and their ancestors. Old ids of the result's nodes: `shape.closure(nodes)`.

        A tree that loses nodes becomes a "point" tree: which nodes survive may depend on what was drawn,
        and a rule that then used the drafter's law would change the output's. `blind` promises that it does
        not, and that of siblings those drawn first survive: then the draw stays what it was.
        """
        kept = self.shape.closure(nodes)
        return self if len(kept) == self.num_nodes else self._take(kept, self.draw if blind else "point")

    def fit(self, root: int, *, vocab_size: int, budget: int, depth: int) -> TokenTree:
        """What a target may be asked to score: the loop passes every proposal through here.

        Nothing is kept of a tree on another root; else what lies deeper than `depth`, tokens outside the
        vocabulary with all that hangs on them, and nodes beyond the first `budget` (the root is free) are
        dropped.
        """
        tokens = self._list
        if tokens[0] != root:
            return TokenTree.root(root)
        small = len(tokens) - 1 <= budget and self.shape.height <= depth
        if small and min(tokens) >= 0 and max(tokens) < vocab_size:
            return self
        shallow = [node for node, level in enumerate(self.shape.depths) if level <= depth]
        kept, parents = {0}, self.shape.parent_list
        for node in shallow[1:]:
            if parents[node] in kept and 0 <= tokens[node] < vocab_size and len(kept) <= budget:
                kept.add(node)
        # Cutting a whole level looks at no token, so the rest is still drawn as it says.
        return self._take(sorted(kept), self.draw if len(kept) == len(shallow) else "point")

    def _take(self, kept: Sequence[int], draw: Draw) -> TokenTree:
        """The tree of `kept`: ascending ids, closed under ancestors."""
        new_id = {old: new for new, old in enumerate(kept)} | {-1: -1}
        tree = TokenTree(
            [self._list[node] for node in kept],
            [new_id[self.shape.parent_list[node]] for node in kept],
            draw=draw,
            logq=None if self.logq is None else self.logq[list(kept)],
            laws=None if self.laws is None else [self.laws[node] for node in kept],
        )
        tree.learn = self.learn
        return tree

    def __repr__(self) -> str:
        return f"TokenTree(tokens={self._list}, parents={self.shape.parent_list}, draw={self.draw!r})"


def _frozen(values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    array = np.array(values, dtype=dtype)
    array.flags.writeable = False
    return array
