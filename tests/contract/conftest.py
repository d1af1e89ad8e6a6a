"""The target that a contract test runs on."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from outpace.core.contracts import Tapped, Target
from tests.contract.rows import TARGETS, VOCAB_SIZE


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "of each test of the contract suite, run the first and every Nth case after it"
    parser.addoption("--every", type=int, default=1, metavar="N", help=about)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    every, folder = config.getoption("--every"), Path(__file__).parent
    seen: Counter[str] = Counter()
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        (left_out if item.path.parent == folder and seen[test] % every else kept).append(item)
        seen[test] += 1
    if left_out:
        items[:] = kept
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="module", params=TARGETS, ids=lambda factory: factory.__name__)
def factory(request: pytest.FixtureRequest) -> Callable[[Path], Target]:
    made: Callable[[Path], Target] = request.param
    return made


@pytest.fixture(scope="module")
def target(factory: Callable[[Path], Target], tmp_path_factory: pytest.TempPathFactory) -> Target:
    made = factory(tmp_path_factory.mktemp("target"))
    assert made.vocab_size >= VOCAB_SIZE and 48 <= made.context_length <= 256
    return made


@pytest.fixture
def tapped(target: Target) -> Tapped:
    if not isinstance(target, Tapped):
        pytest.skip("its hidden states cannot be had")
    return target


@pytest.fixture(scope="module")
def busy_threads() -> Iterator[ThreadPoolExecutor]:
    """Three threads that lose the processor as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            yield pool
    finally:
        sys.setswitchinterval(before)
