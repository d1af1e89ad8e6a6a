"""What several files of this folder use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def quiet() -> Iterator[None]:
    """transformers says nothing about the options that tests give it."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity_warning()
