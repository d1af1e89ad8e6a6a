"""One native decoder and several Python threads: every call is whole, whoever calls in between."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
import pytest

from outpace.core.tree import TokenTree
from tests.fake_models import VOCAB_SIZE
from tests.native_loops import MODELS, PROMPTS, first_pass, next_pass, with_reference
from tests.native_models import gguf_target
from tests.rows import on, opened

T = TypeVar("T")

SIZES = (1, 7, 160, 900)
REPEATS = 40


def in_threads(*jobs: Callable[[], Any]) -> list[Any]:
    """Runs these side by side, all from one start; raises what one of them raises."""
    start = Barrier(len(jobs))

    def started(job: Callable[[], object]) -> object:
        start.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [running.result() for running in [pool.submit(started, job) for job in jobs]]


def answered(call: Callable[[], T]) -> T | None:
    """What a call gives, or None where it says in one line that another's call has no such node or tree."""
    try:
        return call()
    except ValueError as error:
        assert "\n" not in str(error)
        assert any(known in str(error) for known in ("no node", "no scored tree", "has to descend")), error
        return None


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_read_while_others_score_is_of_one_call(threads: int, tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0", threads=threads, context_length=512)
    decoder = target._decoder
    rows, _ = opened(target, [[1, 2, 3], [4, 5]])
    trees = [TokenTree([(n + size) % 99 for n in range(size)], [-1] + [0] * (size - 1)) for size in SIZES]
    states, logits = {}, {}
    for tree in trees:
        scores = target.score(on(rows[:1], [tree]))
        states[tree.num_nodes] = scores.hidden("final")
        logits[tree.num_nodes] = scores.logits(0, [0])[0]

    def score(row: int) -> None:
        for count in range(REPEATS):
            tree = trees[count % len(trees)]
            decoder.score([row], [0, tree.num_nodes], tree.token_list, tree.shape.parent_list)
            answered(lambda: decoder.keep(row, [9999]))

    def read() -> int:
        seen = 0
        for _ in range(REPEATS):
            hidden = decoder.hidden(-1)
            if len(hidden):  # else a call has just begun, or been refused
                same = [np.array_equal(hidden, one) for one in states.values()]
                assert any(same), "torn: of no call that was ever made"
                seen += 1
            one = answered(lambda: decoder.logits([0]))
            assert one is None or any(np.array_equal(one[0], known) for known in logits.values())
            answered(lambda: decoder.top([0, 6], 5))
            chosen = answered(lambda: decoder.choose([(0, 7, 3, 0.8, 5, 0.9, 0.0, 1)]))
            assert chosen is None or all(0 <= token < VOCAB_SIZE for token in chosen[0])
            assert decoder.length(rows[0]) == 3 and decoder.work >= 0 and decoder.cache_bytes > 0
            decoder.close(decoder.fork(rows[1]))
        return seen

    results = in_threads(lambda: score(rows[0]), lambda: score(rows[0]), read, read)
    assert sum(filter(None, results)) > 0


def test_passes_of_several_threads_go_on_from_their_own(tmp_path: Path) -> None:
    """Each has a row in flight, which goes on from its own last pass, whoever came between."""
    target, reference = with_reference(tmp_path, MODELS[1])
    rows, _ = opened(target, PROMPTS)

    def fly(row: int) -> None:
        for _ in range(REPEATS):
            for loop in range(target.num_loops - 1):
                target.advance([next_pass(row, loop) if loop else first_pass(row)])

    in_threads(*(partial(fly, row) for row in rows))
    for row, prompt in zip(rows, PROMPTS, strict=True):
        scores = target.advance([next_pass(row, target.num_loops - 1)])
        expected = reference.logits([*prompt, 5], target.num_loops)
        np.testing.assert_array_equal(scores.logits(0, [0])[0], expected)
        target.keep([row], [(1, 2)])
        assert target.length(row) == len(prompt) + 3
