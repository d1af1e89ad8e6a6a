"""Turns: one at a time, first come first served, re-entered, interrupted, forked, and jobs of finalisers."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from outpace.core.turns import Turns, turns_of


class Shared:
    pass


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def waiting(turns: Turns, count: int) -> None:
    """Until so many threads wait."""
    for _ in range(2000):
        if len(turns._queue) == count:
            return
        time.sleep(0.002)
    raise AssertionError(f"{len(turns._queue)} threads wait, not {count}")


def test_one_thread_at_a_time() -> None:
    turns, inside, most = Turns(), 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        for _ in range(200):
            with turns:
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == 1 and inside == 0


def test_first_come_first_served() -> None:
    turns, order = Turns(), []
    with turns:
        threads = []
        for number in range(6):

            def work(number: int = number) -> None:
                with turns:
                    order.append(number)

            threads.append(in_thread(work))
            waiting(turns, number + 1)
    for thread in threads:
        thread.join(10)
    assert order == list(range(6))


def test_a_thread_that_steps_in_a_loop_lets_others_in_between() -> None:
    turns, order = Turns(), []
    ready = threading.Barrier(3)

    def work(name: str) -> None:
        ready.wait()
        for _ in range(20):
            with turns:
                order.append(name)
                time.sleep(0.001)  # so that the other one is waiting when this turn ends

    threads = [in_thread(lambda name=name: work(name)) for name in "ab"]  # type: ignore[misc]
    ready.wait()
    for thread in threads:
        thread.join(10)
    assert len(order) == 40
    changes = sum(left != right for left, right in pairwise(order))
    assert changes > 30  # with threading.Lock it is 1 or 2


def test_a_turn_may_be_entered_again_and_ends_with_the_outer_one() -> None:
    turns, entered = Turns(), threading.Event()

    def work() -> None:
        with turns:
            entered.set()

    with turns:
        with turns, turns:
            pass
        thread = in_thread(work)
        waiting(turns, 1)
        assert not entered.is_set()
    thread.join(10)
    assert entered.is_set()


def test_an_error_in_a_turn_gives_it_back() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns:
        raise KeyError
    done: list[None] = []
    in_thread(lambda: done.append(turns.__enter__())).join(10)
    assert done == [None]


def test_a_job_runs_at_once_where_nobody_has_the_turn() -> None:
    turns, done = Turns(), []
    turns.soon(lambda: done.append(1))
    assert done == [1]
    with turns:
        done.append(2)
    assert done == [1, 2]


def test_a_job_waits_for_the_end_of_the_turn_under_way_in_any_thread() -> None:
    turns, done = Turns(), []
    with turns:
        turns.soon(lambda: done.append("own"))
        in_thread(lambda: turns.soon(lambda: done.append("other"))).join(10)
        with turns:
            pass
        assert done == []
    assert done == ["own", "other"]


def test_a_job_that_fails_leaves_the_turn_free() -> None:
    turns, done = Turns(), []

    def fail() -> None:
        raise KeyError("a job")

    with pytest.raises(KeyError, match="a job"):
        turns.soon(fail)
    with pytest.raises(KeyError, match="a job"), turns:
        turns.soon(fail)
    in_thread(lambda: turns.soon(lambda: done.append(1))).join(10)
    assert done == [1]


def test_an_interrupted_wait_leaves_the_queue() -> None:
    turns = Turns()

    class Interrupted:
        """A lock whose acquisition by a waiting thread is interrupted, as Ctrl-C does it."""

        def acquire(self, timeout: float) -> bool:
            raise KeyboardInterrupt

        def release(self) -> None:
            raise AssertionError("nobody waits")

    with turns:
        entry = (threading.get_ident() + 1, Interrupted(), 0)
        turns._queue.append(entry)  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            turns._wait(entry)  # type: ignore[arg-type]
        assert not turns._queue
    with turns:
        pass


def take_and_lose(turns: Turns) -> None:
    """What an exception leaves that strikes while a turn is taken, or given back."""
    turns.__enter__()


def test_a_turn_that_an_exception_has_cut_off_is_found_by_those_who_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("outpace.core.turns.PATIENCE_S", 0.01)
    turns, entered = Turns(), threading.Semaphore(0)

    def work() -> None:
        with turns:
            entered.release()

    take_and_lose(turns)  # this thread lives on, the next one does not
    for _ in range(2):
        threads = [in_thread(work) for _ in range(3)]
        assert all(entered.acquire(timeout=20) for _ in threads)
        for thread in threads:
            thread.join(20)
        assert not turns._owner and not turns._queue
        in_thread(lambda: take_and_lose(turns)).join()


def test_a_thread_that_has_lost_its_turn_may_take_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.core.turns.PATIENCE_S", 0.01)
    turns, entered = Turns(), threading.Event()

    def work() -> None:
        with turns:
            entered.set()

    take_and_lose(turns)
    with turns, turns:
        thread = in_thread(work)
        assert not entered.wait(0.3)  # it looks, and finds this turn
    assert entered.wait(20)
    thread.join()


def test_a_turn_that_is_handed_on_without_a_call_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.core.turns.PATIENCE_S", 0.01)
    turns, entered = Turns(), threading.Event()

    def work() -> None:
        with turns:
            entered.set()

    turns.__enter__()
    threads = [in_thread(work)]
    waiting(turns, 1)
    entry = turns._queue.popleft()
    threads.append(in_thread(work))
    waiting(turns, 1)
    turns._begin(entry[0], entry[2])
    assert entered.wait(20)
    for thread in threads:
        thread.join(20)
    assert not turns._owner and not turns._queue


def test_an_object_has_its_own_turns_as_long_as_it_lives() -> None:
    first, second = Shared(), Shared()
    assert turns_of(first) is turns_of(first)
    assert turns_of(first) is not turns_of(second)
    alive = weakref.ref(turns_of(first))
    del first
    gc.collect()
    assert alive() is None


def test_objects_that_know_no_weak_references_have_turns_too() -> None:
    class Slotted:
        __slots__ = ()

    one = Slotted()
    assert turns_of(one) is turns_of(one)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forgets_the_threads_that_it_does_not_have() -> None:
    shared = Shared()
    turns, held, over = turns_of(shared), threading.Event(), threading.Event()

    def hold() -> None:
        with turns:
            held.set()
            over.wait(20)

    thread = in_thread(hold)
    held.wait(10)
    child = os.fork()
    if child == 0:
        with turns_of(shared):
            os._exit(7)
    for _ in range(1000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise AssertionError("the child waits for a thread that it does not have")
    assert os.waitstatus_to_exitcode(status) == 7
    over.set()
    thread.join(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_in_a_turn_keeps_it_in_the_child() -> None:
    turns = Turns()
    with turns:
        child = os.fork()
        if child == 0:
            with turns:
                pass
            turns.__exit__(None, None, None)
            os._exit(7 if turns._owner == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
