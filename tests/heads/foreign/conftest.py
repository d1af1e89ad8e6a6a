"""A tiny model of eight layers, in the native engine and in torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

pytest.importorskip("torch")
from tests.fake_models import make_model
from tests.native_models import gguf_target

LAYERS = 8


class Tiny(NamedTuple):
    target: Any
    model: Any


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The same float weights in both."""
    folder = tmp_path_factory.mktemp("tiny")
    target = gguf_target(folder, "llama", "F32", context_length=64, kv="f32", num_hidden_layers=LAYERS)
    return Tiny(target, make_model("llama", num_hidden_layers=LAYERS))
