"""Drafters that nobody should write, drafters with a law that is known, and a tokenizer of letters."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import TreePolicy
from outpace.core.steps import Ask, Candidates, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.targets.table import TableTarget
from outpace.trees.grow import EVERY_DRAW, Logits, grow_trees


class Hostile:
    """A drafter made of one function of an ask and its own coins."""

    traits = Traits(branches=True)

    def __init__(self, draft: Callable[[Ask, random.Random], TokenTree]) -> None:
        self.draft = draft

    def start(self, prompt: Prompt) -> random.Random:
        return random.Random(len(prompt))

    def propose(self, states: Sequence[random.Random], asks: Sequence[Ask]) -> list[TokenTree]:
        return [self.draft(ask, state) for ask, state in zip(asks, states, strict=True)]

    def observe(self, states: Sequence[random.Random], steps: Sequence[Step]) -> list[random.Random]:
        return list(states)

    def stop(self, state: random.Random) -> None:
        pass


def _random_tree(ask: Ask, rng: random.Random, *, num_nodes: int, low: int, high: int) -> TokenTree:
    parents = [-1, *(rng.randrange(node) for node in range(1, num_nodes))]
    return TokenTree([ask.root, *(rng.randint(low, high) for _ in parents[1:])], parents)


def full_tree(ask: Ask, vocab_size: int, levels: int) -> TokenTree:
    """Every text of so many tokens: some path is always accepted in full."""
    tokens, parents, level = [ask.root], [-1], [0]
    for _ in range(levels):
        parents += [node for node in level for _ in range(vocab_size)]
        tokens += list(range(vocab_size)) * len(level)
        level = list(range(len(tokens) - len(level) * vocab_size, len(tokens)))
    return TokenTree(tokens, parents)


def hostile(vocab_size: int) -> dict[str, Hostile]:
    """Drafters that may cost time but must never change an output, by name."""
    return {
        "nothing": Hostile(lambda ask, rng: TokenTree.root(ask.root)),
        "garbage": Hostile(lambda ask, rng: _random_tree(ask, rng, num_nodes=12, low=0, high=vocab_size - 1)),
        "too much": Hostile(
            lambda ask, rng: _random_tree(ask, rng, num_nodes=300, low=0, high=vocab_size - 1)
        ),
        "too deep": Hostile(
            lambda ask, rng: TokenTree.chain(ask.root, rng.choices(range(vocab_size), k=200))
        ),
        "outside": Hostile(
            lambda ask, rng: _random_tree(ask, rng, num_nodes=30, low=-vocab_size, high=3 * vocab_size)
        ),
        "huge ids": Hostile(lambda ask, rng: TokenTree.chain(ask.root, [2**40, -(2**40)])),
        "wrong root": Hostile(lambda ask, rng: TokenTree.chain((ask.root + 1) % vocab_size, [0, 1, 2])),
        "twins": Hostile(lambda ask, rng: TokenTree([ask.root, 0, 0, 1, 1, 0], [-1, 0, 0, 1, 2, 2])),
        "everything": Hostile(lambda ask, rng: full_tree(ask, vocab_size, 2)),
    }


class Wide:
    """A tree policy: `width` children for every node down to depth `levels`, whatever was drawn."""

    traits = Traits()

    def __init__(self, width: int, levels: int) -> None:
        self.width = width
        self.levels = levels

    def expand(self, tree: TokenTree) -> Sequence[int]:
        depths = tree.shape.depths
        return [node for node in range(tree.num_nodes) if depths[node] == tree.shape.height < self.levels]

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        return candidates.hang(tree, [self.width] * len(candidates.nodes))

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        return tree.prune(range(min(budget + 1, tree.num_nodes)))


class TableDraft:
    """A drafter whose law is a table's: it serves every draw, and the shape of its trees is the policy's.

    prune  what to make of a finished tree.
    """

    traits = Traits(draws=EVERY_DRAW, branches=True)

    def __init__(
        self,
        table: TableTarget,
        policy: TreePolicy,
        prune: Callable[[TokenTree], TokenTree] = lambda tree: tree,
    ) -> None:
        self.table = table
        self.policy = policy
        self.prune = prune

    def start(self, prompt: Prompt) -> list[int]:
        return list(prompt)

    def propose(self, states: Sequence[list[int]], asks: Sequence[Ask]) -> list[TokenTree]:
        def step(
            rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
        ) -> list[Logits]:
            return [
                np.stack([self._after(states[row], tree, node) for node in expanded])
                for row, tree, expanded in zip(rows, trees, nodes, strict=True)
            ]

        return [self.prune(tree) for tree in grow_trees(asks, self.policy, step)]

    def observe(self, states: Sequence[list[int]], steps: Sequence[Step]) -> list[list[int]]:
        return [[*state, *step.tokens] for state, step in zip(states, steps, strict=True)]

    def stop(self, state: list[int]) -> None:
        pass

    def _after(self, text: list[int], tree: TokenTree, node: int) -> Logits:
        return self.table.after([*text, *(tree.token_list[i] for i in tree.path_to(node)[1:])])


class Letters:
    """A tokenizer whose token i is the i-th of the letters given; with spaces, a prompt is words of them."""

    strips_space = False
    add_bos = bos_in_chats = False

    def __init__(self, letters: str) -> None:
        self.letters = letters
        self.text_bytes: Mapping[int, bytes] = {i: letter.encode() for i, letter in enumerate(letters)}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [self.letters.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.letters[i] for i in ids)


def whole(generator: Any) -> tuple[list[tuple[list[int], str]], Any]:
    """All that a generator yields, and what it returns."""
    blocks = []
    while True:
        try:
            blocks.append(next(generator))
        except StopIteration as end:
            return blocks, end.value
