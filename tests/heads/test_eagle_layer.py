"""The EAGLE layer on our kernels against numpy: both generations, every norm and bias, trees and rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.heads.eagle import EagleWeights, read_eagle, write_eagle
from outpace.heads.eagle_layer import EagleLayer
from outpace.targets.table import TableTarget
from tests.eagle_heads import EagleTwin, eagle_config, random_eagle, write_random_eagle
from tests.native_models import gguf_target

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
KINDS: dict[str, dict[str, Any]] = {
    "eagle3": {},
    "norms": {"norm_before_fc": True, "fc_norm": True, "norm_before_residual": True, "norm_output": True},
    "qwen": {"qkv_bias": True, "qk_norm": True, "rope_theta": 1e6, "rms_eps": 1e-6, "head_dim": 32},
    "odd": {"num_heads": 6, "intermediate_size": 70, "rope_scaling": YARN},
    "eagle": {"generation": "eagle"},
    "eagle-bias": {"generation": "eagle", "fc_bias": True},
}


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.targets.native_layer.KIND", "f32")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Float weights, so that nothing is rounded; output and input embedding differ."""
    return gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", context_length=64, kv="f32")


def twin_of(target: Any, heads: EagleWeights) -> EagleTwin:
    ids = np.arange(target.vocab_size)
    return EagleTwin(heads, target.input_rows(ids), target.output_rows())


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_and_a_tree_behind_it(target: Any, tmp_path: Path, kind: str) -> None:
    heads = write_random_eagle(tmp_path, target, **KINDS[kind])
    layer, twin = EagleLayer(target, tmp_path), twin_of(target, heads)
    rng = np.random.default_rng(3)
    wide = len(heads.config.taps) * target.hidden_size
    states = rng.normal(size=(5, wide), scale=3.0).astype(np.float32)
    tokens = [7, 3, 3, 200, 9]
    features = layer.features(states)
    expected = [twin.feature(one) for one in states]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)

    row = layer.rows.open()
    read = layer.inputs(tokens, features)
    outputs = layer.rows.score([row], [0, 5], range(-1, 4), *read)
    cache: list[Any] = []
    wanted = [twin.output(cache, token, one) for token, one in zip(tokens, expected, strict=True)]
    np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=2e-3)
    logits = layer.logits(outputs)
    ids = slice(None) if heads.token_ids is None else heads.token_ids
    np.testing.assert_allclose(logits[:, ids], [twin.logits(one) for one in wanted], rtol=1e-4, atol=2e-3)
    assert logits.shape == (5, target.vocab_size)
    if heads.token_ids is not None:
        assert np.isinf(np.delete(logits, heads.token_ids, axis=1)).all()

    # Four of them are committed; a tree hangs on the last: two children, one of which has a child.
    layer.rows.keep(row, range(1, 4))
    assert layer.rows.length(row) == 4
    behind = layer.behind(outputs[[4, 4, 4]])
    np.testing.assert_allclose(behind[0], twin.behind(wanted[4]), rtol=1e-4, atol=2e-3)
    children = layer.inputs([11, 12], layer.behind(outputs[[4, 4]]))
    last = (read[0][4:], read[1][4:])
    both = [np.concatenate(pair) for pair in zip(last, children, strict=True)]
    level = layer.rows.score([row], [0, 3], [-1, 0, 0], *both)
    np.testing.assert_allclose(level[0], wanted[4], rtol=1e-4, atol=2e-3)
    grandchild = layer.inputs([13], layer.behind(level[2:]))
    whole = [np.concatenate(pair) for pair in zip(both, grandchild, strict=True)]
    found = layer.rows.score([row], [0, 4], [-1, 0, 0, 2], *whole)
    for token, at in ((11, 1), (12, 2)):
        branch = list(cache)
        child = twin.output(branch, token, twin.behind(wanted[4]))
        np.testing.assert_allclose(found[at], child, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(found[3], twin.output(branch, 13, twin.behind(child)), rtol=1e-4, atol=2e-3)


def test_rows_share_calls_and_forks_go_their_own_way(target: Any, tmp_path: Path) -> None:
    heads = write_random_eagle(tmp_path, target)
    layer, twin = EagleLayer(target, tmp_path), twin_of(target, heads)
    features = layer.features(
        np.random.default_rng(1).normal(size=(4, 3 * target.hidden_size)).astype(np.float32)
    )
    one, two = layer.rows.open(), layer.rows.open()
    read, residuals = layer.inputs([1, 2, 3, 4], features)
    outputs = layer.rows.score([one, two], [0, 1, 4], [-1, -1, 0, 1], read, residuals)
    alone: list[Any] = []
    np.testing.assert_allclose(outputs[0], twin.output(alone, 1, features[0]), rtol=1e-4, atol=1e-4)
    others: list[Any] = []
    for at in (1, 2, 3):
        wanted = twin.output(others, at + 1, features[at])
        np.testing.assert_allclose(outputs[at], wanted, rtol=1e-4, atol=1e-4)
    layer.rows.keep(two, [1])
    copy = layer.rows.fork(two)
    layer.rows.free(two)
    assert layer.rows.length(copy) == 2
    again = layer.rows.score([copy], [0, 1], [-1], read[3:], residuals[3:])
    np.testing.assert_array_equal(again[0], outputs[3])


def test_eight_bits_are_near(target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random_eagle(tmp_path, target)
    states = np.random.default_rng(1).normal(size=(4, 3 * target.hidden_size)).astype(np.float32)
    found = []
    for kind in ("f32", "q8s"):
        monkeypatch.setattr("outpace.targets.native_layer.KIND", kind)
        layer = EagleLayer(target, tmp_path)
        read = layer.inputs([1, 2, 3, 4], layer.features(states))
        found.append(layer.rows.score([layer.rows.open()], [0, 4], range(-1, 3), *read))
    error = np.abs(found[0] - found[1]).max() / np.abs(found[0]).max()
    assert 0 < error < 0.03


def test_heads_of_other_models_and_vocabularies_are_refused(target: Any, tmp_path: Path) -> None:
    config = eagle_config(target)
    other = random_eagle(replace(config, target="sha256:other"))
    write_eagle(tmp_path / "other", other)
    with pytest.raises(OutpaceError, match=r"were trained on another model \(a tiny model\)"):
        EagleLayer(target, tmp_path / "other")
    far = random_eagle(config, token_ids=[*range(7), target.vocab_size])
    write_eagle(tmp_path / "far", far)
    with pytest.raises(
        OutpaceError, match=f"accepted are those of the model's vocabulary, 0 to {target.vocab_size - 1}"
    ):
        EagleLayer(target, tmp_path / "far")
    with pytest.raises(OutpaceError, match="TableTarget shows none; accepted are native and transformers"):
        EagleLayer(TableTarget.random(vocab_size=8, order=1), tmp_path / "far")


def test_a_folder_gives_back_its_bits(target: Any, tmp_path: Path) -> None:
    for kind, options in KINDS.items():
        heads = write_random_eagle(tmp_path / kind, target, **options)
        found = read_eagle(tmp_path / kind)
        assert found.config == heads.config
        for name, tensor in heads.tensors.items():
            np.testing.assert_array_equal(found.tensors[name], tensor)
        if heads.token_ids is None:
            assert found.token_ids is None
        else:
            np.testing.assert_array_equal(found.token_ids, heads.token_ids)
