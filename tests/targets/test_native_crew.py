"""Layers and draft models on the threads of the target that they work in turns with."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

import outpace
from outpace.core.tree import TokenTree
from outpace.targets.native import NativeTarget
from outpace.targets.native_layer import NativeLayer
from tests.fake_models import write_gguf
from tests.native_models import gguf_target
from tests.rows import on, opened
from tests.targets.test_native_layer import READ, WIDTH, layer_spec

TASKS = Path("/proc/self/task")


def num_tasks() -> int:
    """Threads of this process, native ones too where that can be seen. Libraries have some of their own."""
    return len(os.listdir(TASKS)) if TASKS.is_dir() else threading.active_count()


def test_layers_share_the_threads_of_their_target(tmp_path: Path) -> None:
    """In turns with it: the bits are those of threads of their own, whoever is closed or gone first."""
    target = gguf_target(tmp_path, "llama", "Q8_0", threads=5)
    rng = np.random.default_rng(9)
    read, residuals = (rng.normal(size=(5, width)).astype(np.float32) for width in (READ, WIDTH))
    alone, before = NativeLayer(layer_spec(), threads=2), num_tasks()
    layers = [target.layer(layer_spec()) for _ in range(3)]
    assert num_tasks() < before + 3 * 4  # none of theirs was started
    assert {layer.decoder.num_threads for layer in layers} == {5}

    def scored(layer: NativeLayer) -> np.ndarray:
        row = layer.open()
        found = layer.score([row], [0, 5], [-1, 0, 1, 1, 0], read, residuals)
        layer.free(row)
        return found

    expected = scored(alone)
    rows, _ = opened(target, [[1, 2, 3]])
    tree = TokenTree.chain(4, [5, 6])
    logits = target.score(on(rows, [tree])).logits(0, range(3))
    for layer in layers:
        np.testing.assert_array_equal(scored(layer), expected)
        np.testing.assert_array_equal(target.score(on(rows, [tree])).logits(0, range(3)), logits)
    target.free(rows)
    last = layers.pop()
    target.close()
    layers.clear()
    del target
    np.testing.assert_array_equal(scored(last), expected)


def test_several_threads_of_python_take_turns_on_shared_ones(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0", threads=2)
    rng = np.random.default_rng(10)
    read, residuals = (rng.normal(size=(4, width)).astype(np.float32) for width in (READ, WIDTH))
    layers = [target.layer(layer_spec()) for _ in range(2)]
    rows, _ = opened(target, [[1, 2, 3]])
    tree = TokenTree.chain(4, [5, 6])
    expected = target.score(on(rows, [tree])).logits(0, range(3))
    found: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}

    def layer_calls(number: int) -> None:
        layer = layers[number]
        row = layer.open()
        for _ in range(50):
            found[number].append(layer.score([row], [0, 4], [-1, 0, 1, 2], read, residuals))

    def target_calls() -> None:
        for _ in range(50):
            found[2].append(target.score(on(rows, [tree])).logits(0, range(3)))

    workers = [threading.Thread(target=layer_calls, args=(number,)) for number in range(2)]
    workers.append(threading.Thread(target=target_calls))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for one in found[2]:
        np.testing.assert_array_equal(one, expected)
    for one in [*found[0], *found[1]]:
        np.testing.assert_array_equal(one, found[0][0])
    assert [len(found[number]) for number in range(3)] == [50, 50, 50]


def test_a_draft_model_shares_them_too(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", "llama")
    path = str(tmp_path / "tiny.gguf")
    model = outpace.load(path, threads=9)
    plain = model.generate("one two", draft="none", max_tokens=12).token_ids
    before = num_tasks()
    drafter = model.drafter(f"small_model:model={path}")
    assert num_tasks() < before + 8
    drafted = model.generate("one two", draft=f"small_model:model={path}", max_tokens=12)
    assert drafted.token_ids == plain and drafted.stats.num_accepted > 0
    inner = drafter._target  # type: ignore[attr-defined]
    assert isinstance(inner, NativeTarget) and inner.threads == 9
    between = num_tasks()
    alone = outpace.load(path, threads=9)
    if TASKS.is_dir():
        assert num_tasks() >= between + 4  # a model of its own starts its own; some of others may have ended
    alone.close()
