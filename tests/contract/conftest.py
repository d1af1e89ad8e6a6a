"""The target that a contract test runs on."""

from __future__ import annotations

import pytest

from outpace.core.contracts import Target
from tests.contract.rows import TARGETS, VOCAB_SIZE


@pytest.fixture(scope="module", params=TARGETS, ids=lambda factory: factory.__name__)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    made: Target = request.param(tmp_path_factory.mktemp("target"))
    assert made.vocab_size >= VOCAB_SIZE and 48 <= made.context_length <= 256
    return made
