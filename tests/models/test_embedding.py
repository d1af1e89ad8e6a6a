"""A text as a vector, against transformers' own hidden states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.models.embedding import POOLINGS, Pooling, embedding
from outpace.targets.table import TableTarget
from tests.fake_models import write_gguf
from tests.native_models import open_target


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("length", [1, 7, 300])
def test_it_is_that_of_transformers(tmp_path: Path, pooling: Pooling, length: int) -> None:
    model = write_gguf(tmp_path / "a.gguf", "llama", tensor_type="F32", max_position_embeddings=512)
    target = open_target(tmp_path / "a.gguf", tmp_path / "cache", kv="f32")
    tokens = np.random.default_rng(length).integers(0, 256, length).tolist()
    with torch.no_grad():
        states = model.model(torch.tensor([tokens])).last_hidden_state[0].double().numpy()
    wanted = states.mean(axis=0) if pooling == "mean" else states[-1]
    found = embedding(target, tokens, pooling=pooling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=2e-5)
    assert target.cache_bytes == 0 and abs(np.linalg.norm(found) - 1) < 1e-6
    np.testing.assert_array_equal(found, embedding(target, tokens, pooling=pooling))


def test_what_cannot_be_embedded(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", "llama", max_position_embeddings=64)
    target = open_target(tmp_path / "a.gguf", tmp_path / "cache")
    with pytest.raises(OutpaceError, match="accepted are texts of 1 token or more"):
        embedding(target, [])
    with pytest.raises(PromptTooLong, match="has 65 tokens, the context holds 64"):
        embedding(target, [1] * 65)
    with pytest.raises(OutpaceError, match="pooling is 'max', accepted are mean, last"):
        embedding(target, [1], pooling="max")  # type: ignore[arg-type]
    with pytest.raises(OutpaceError, match="no hidden states"):
        embedding(TableTarget.random(vocab_size=5, seed=0), [1])
