"""How long the runs of the experiments measure."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session", autouse=True)
def brief_pace() -> Iterator[None]:
    """Which precision is faster changes nothing that is tested: a third of the steps tells it too."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("torch"):
            patch.setattr("experiments.kit.trainings.PACE_STEPS", 8)
        yield
