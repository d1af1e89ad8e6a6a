"""Tiny native models that run their layers in loops, and what whole calls of them say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from outpace.core.call import Call, Pass
from outpace.core.tree import TokenTree
from outpace.targets.native import NativeTarget
from tests.fake_models import VOCAB_SIZE
from tests.native_models import gguf_target
from tests.rows import on, opened

RNG = np.random.default_rng(20)
PROMPTS = [[int(t) for t in RNG.integers(0, VOCAB_SIZE, n)] for n in (13, 2, 30)]
Model = tuple[str, str, int, int, bool, Any]
# (family, type of the weights, layers of a loop, loops, norm between them, cache). Gemma 3 has windows of 8.
MODELS: list[Model] = [
    ("llama", "Q4_1", 2, 2, False, "f16"),
    ("qwen3", "F32", 1, 3, True, "f32"),
    ("gemma3", "Q8_0", 2, 4, False, "f16"),
    ("gemma3", "F32", 6, 2, True, "f32"),
    ("qwen2", "Q5_0", 1, 4, True, "f16"),
]


def looped(target: NativeTarget, loops: int, *, loop_norm: bool = False, **options: Any) -> NativeTarget:
    """A model of these weights that runs all of its layers so many times."""
    layers = target.num_layers
    config = replace(
        target.config,
        num_layers=layers * loops,
        layer_rope=target.config.layer_rope * loops,
        layer_window=target.config.layer_window * loops,
        layer_order=tuple(range(layers)) * loops,
        loop_norm=loop_norm,
    )
    return NativeTarget(config, target.weights, threads=2, **options)


def looped_model(folder: Path, model: Model, **options: Any) -> NativeTarget:
    family, tensor_type, layers, loops, loop_norm, kv = model
    once = gguf_target(folder, family, tensor_type, num_hidden_layers=layers)
    return looped(once, loops, loop_norm=loop_norm, kv=kv, **options)


class Reference:
    """What whole calls of a text alone say: the first loops of it, from its first token on."""

    def __init__(self, target: NativeTarget) -> None:
        self._target = target
        self._loop_layers = target.num_layers // target.num_loops
        self._known: dict[tuple[tuple[int, ...], int], np.ndarray] = {}

    def logits(self, text: Sequence[int], loops: int) -> np.ndarray:
        """f32[V] after the last token of the text, behind so many loops."""
        key = (tuple(text), loops)
        if key not in self._known:
            row = self._target.open()
            tree = TokenTree.chain(text[0], text[1:])
            scores = self._target.run([Call.on(row, tree)], layers=loops * self._loop_layers)
            self._known[key] = scores.logits(0, [len(text) - 1])[0]
            self._target.free([row])
        return self._known[key]

    def tree(self, text: Sequence[int], tree: TokenTree) -> np.ndarray:
        """f32[N, V] of a tree behind a text that is read."""
        rows, _ = opened(self._target, [text])
        found = self._target.score(on(rows, [tree])).logits(0, range(tree.num_nodes))
        self._target.free(rows)
        return found


def with_reference(folder: Path, model: Model, **options: Any) -> tuple[NativeTarget, Reference]:
    """A target, and what another one of the same weights says."""
    return looped_model(folder, model, **options), Reference(looped_model(folder, model))


def first_pass(row: int, tokens: Sequence[int] = (5, 6, 7)) -> Pass:
    tree = TokenTree.chain(tokens[0], tokens[1:])
    return Pass(row, tree, [0] * tree.num_nodes, [-1] * tree.num_nodes, [0])


def next_pass(row: int, loop: int, tokens: Sequence[int] = (5, 6, 7)) -> Pass:
    tree = TokenTree.chain(tokens[0], tokens[1:])
    return Pass(row, tree, [loop] * tree.num_nodes, range(tree.num_nodes), [0])
