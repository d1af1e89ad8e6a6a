"""Native models that are given states: what does not fit is refused, and no kind passes for the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace import _native
from outpace.heads.eagle_layer import EagleLayer
from tests.eagle_heads import write_random_eagle
from tests.native_models import gguf_target


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", context_length=64)


@pytest.fixture
def decoder(target: Any, tmp_path: Path) -> Any:
    write_random_eagle(tmp_path, target)
    rows: Any = EagleLayer(target, tmp_path).rows
    return rows.decoder


def arrays(count: int, wide: int = 128, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((count, wide), np.float32), np.ones((count, width), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (([0, 2], [-1, 0], *arrays(1)), r"\[nodes, input_width\], residuals \[nodes, hidden_size\]"),
        (([0, 1], [-1], *arrays(1, wide=64)), r"\[nodes, input_width\]"),
        (([0, 1], [-1], *arrays(1, width=32)), r"\[nodes, hidden_size\]"),
        (([0, 2], [-1], *arrays(1)), "rows, starts, tokens and parents do not fit together"),
        (([0, 1], [0], *arrays(1)), "parent"),
    ],
)
def test_what_does_not_fit_is_refused(decoder: Any, call: tuple[Any, ...], message: str) -> None:
    row = decoder.open()
    with pytest.raises(ValueError, match=message):
        decoder.score_given([row], *call)
    decoder.score_given([row], [0, 1], [-1], *arrays(1))
    assert np.isfinite(decoder.hidden(0)).all()


def test_tokens_and_states_are_two_kinds_of_models(target: Any, decoder: Any) -> None:
    with pytest.raises(ValueError, match="this model reads states and no tokens"):
        decoder.score([decoder.open()], [0, 1], [0], [-1])
    plain = target._decoder
    with pytest.raises(ValueError, match="this model reads tokens and no states"):
        plain.score_given([plain.open()], [0, 1], [-1], *arrays(1, wide=0))


def test_only_one_layer_can_be_given_states(target: Any) -> None:
    fields = {name: getattr(target.config, name) for name in target.config.__slots__}
    fields |= {"input_width": 128, "rope_inv_freq": [t.tolist() for t in target.config.rope_inv_freq]}
    tensors = {n: (t.kind, t.rows, t.cols, t.offset, t.nbytes) for n, t in target.weights.tensors.items()}
    for width, message in ((128, "needs a model of one layer"), (-1, "input_width is outside")):
        with pytest.raises(ValueError, match=message):
            _native.Decoder(fields | {"input_width": width}, tensors, target.weights.buffer, 1, True, 64)
