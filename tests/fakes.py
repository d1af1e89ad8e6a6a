"""Drafters that nobody should write, and a tokenizer of letters."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from outpace.core.contracts import Ask, RowScores, Step
from outpace.core.tree import TokenTree


class Hostile:
    """A drafter made of one function of an ask and its own coins."""

    def __init__(self, draft: Callable[[Ask, random.Random], TokenTree]) -> None:
        self.draft = draft

    def start(self, prompt: Sequence[int], scores: RowScores) -> random.Random:
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


class Letters:
    """A tokenizer whose token i is the i-th of the letters given; with spaces, a prompt is words of them."""

    strips_space = False
    add_bos = False

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
