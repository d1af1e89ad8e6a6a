"""A native target that was opened before a fork answers in the child, whose threads are its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.targets.native import NativeTarget
from tests.native_models import gguf_target
from tests.rows import on, opened

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
PROMPT = list(range(1, 40))
TREE = TokenTree([3, 4, 5, 6, 7], [-1, 0, 0, 1, 1])
HUNG_S = 60

shared: list[NativeTarget] = []  # what the workers of a pool inherit


def in_child(job: Callable[[], Any]) -> Any:
    """What a job gives in the child of a fork, which is killed where it hangs."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(HUNG_S)
            os.close(read)
            with os.fdopen(write, "wb") as out:
                pickle.dump(job(), out)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        result = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status} ({signal.SIGALRM}: it hung)"
    return pickle.loads(result)


def answer(target: NativeTarget) -> np.ndarray:
    rows, _ = opened(target, [PROMPT])
    logits = target.score(on(rows, [TREE])).logits(0, range(TREE.num_nodes))
    target.free(rows)
    return logits


def from_shared(_: int) -> np.ndarray:
    return answer(shared[0])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_children_and_their_children_answer(threads: int, tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0", threads=threads)
    fresh = in_child(lambda: answer(target))  # of a parent that has not run yet
    expected = answer(target)
    np.testing.assert_array_equal(fresh, expected)
    family = in_child(lambda: [answer(target), in_child(lambda: answer(target)), answer(target)])
    for logits in (*family, answer(target)):
        np.testing.assert_array_equal(logits, expected)
    unused = in_child(lambda: in_child(lambda: answer(target)))  # by way of a child that runs nothing
    np.testing.assert_array_equal(unused, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_goes_on_in_both(threads: int, tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0", threads=threads)
    rows, _ = opened(target, [PROMPT])
    target.score(on(rows, [TREE]))

    def go_on() -> np.ndarray:
        target.keep(rows, [[1, 3]])
        return target.score(on(rows, [TREE])).logits(0, [0, 4])

    np.testing.assert_array_equal(in_child(go_on), go_on())


@pytest.mark.parametrize("used", [False, True])
def test_a_child_gives_a_target_back(used: bool, tmp_path: Path) -> None:
    owner = [gguf_target(tmp_path, "llama", "Q8_0", threads=3)]
    answer(owner[0])

    def end() -> int:
        if used:
            answer(owner[0])
        owner.clear()
        return len(owner)

    assert in_child(end) == 0
    answer(owner[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_a_fork_while_another_thread_computes(threads: int, tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0", threads=threads)
    expected = answer(target)
    decoder, over = target._decoder, Event()

    def compute() -> None:
        while not over.is_set():
            row = decoder.open()
            decoder.score([row], [0, len(PROMPT)], PROMPT, list(range(-1, len(PROMPT) - 1)))
            decoder.keep(row, list(range(1, len(PROMPT))))
            decoder.close(row)

    other = Thread(target=compute)
    other.start()
    try:
        for _ in range(20):
            np.testing.assert_array_equal(in_child(lambda: answer(target)), expected)
    finally:
        over.set()
        other.join()
    np.testing.assert_array_equal(answer(target), expected)


def test_workers_of_a_pool(tmp_path: Path) -> None:
    shared[:] = [gguf_target(tmp_path, "llama", "Q8_0", threads=2)]
    expected = answer(shared[0])
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=fork, initializer=signal.alarm, initargs=(HUNG_S,)) as pool:
        for logits in pool.map(from_shared, range(4)):
            np.testing.assert_array_equal(logits, expected)
    shared.clear()


def test_threads_that_cannot_be_started_are_one_line(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0")

    def without_room() -> str:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
        with pytest.raises(OutpaceError) as error:
            NativeTarget(target.config, target.weights, threads=1024)
        return str(error.value)

    message = in_child(without_room)
    assert "this process can have" in message and "not 1024" in message and "\n" not in message
