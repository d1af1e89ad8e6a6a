"""Adapters of early exits: their folders, every fault named; their pass against torch, trees and rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from safetensors.numpy import load_file, save_file

from outpace.core.errors import FormatError, OutpaceError
from outpace.heads.exit_adapter import AdapterWeights, read_adapter, write_adapter
from outpace.heads.exit_adapter_layer import ExitAdapter
from outpace.heads.folder import WEIGHTS
from outpace.targets.table import TableTarget
from tests.exit_adapters import (
    adapted,
    adapter_config,
    exit_states,
    random_adapter,
    write_random_adapter,
)
from tests.made_heads import with_config
from tests.native_loops import looped_model
from tests.native_models import gguf_target

TEXT = [7, 3, 3, 100, 9]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.targets.native_layer.KIND", "f32")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", context_length=64, kv="f32")


def without(name: str) -> Callable[[Path], None]:
    """What takes a tensor out of a folder."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        del tensors[name]
        save_file(tensors, folder / WEIGHTS)

    return damage


def test_a_folder_keeps_its_bits(target: Any, tmp_path: Path) -> None:
    for ids in (None, [1, 5, 80]):
        wanted = random_adapter(adapter_config(target, layers=2, rope_theta=5e5), token_ids=ids)
        write_adapter(tmp_path, wanted)
        found = read_adapter(tmp_path)
        assert found.config == wanted.config
        for name, tensor in wanted.tensors.items():
            np.testing.assert_array_equal(found.tensors[name], tensor)
        assert (None if found.token_ids is None else found.token_ids.tolist()) == ids


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_config(method="eagle"), "heads of the method 'eagle', accepted is 'early_exit'"),
        (with_config(version=9), "version 9, accepted is 1"),
        (with_config(layers=0), "layers is 0, accepted are whole numbers from 1 to 1024"),
        (with_config(target=...), "target is None, expected the fingerprint"),
        (with_config(num_heads=3), "num_kv_heads is 2, accepted are divisors of num_heads, 3"),
        (with_config(head_dim=24), "head_dim is 24, accepted are multiples of 16 up to 512"),
        (with_config(rms_eps="small"), "rms_eps is 'small', accepted are numbers above"),
        (with_config(rope_theta=1.0), "rope_theta is 1.0, accepted are numbers above 1,"),
        (with_config(hidden_size=7), r"exit_norm\.weight is F16\[64\], expected floats \[7\]"),
        (with_config(head_dim=32), r"q_proj\.weight is F16\[64, 64\], expected floats \[128, 64\]"),
        (without("exit_norm.weight"), r"the tensor exit_norm\.weight is missing, expected floats \[64\]"),
        (without("self_attn.o_proj.weight"), r"self_attn\.o_proj\.weight is missing"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"has no weights: expected model\.safetensors"),
    ],
)
def test_every_fault_is_named(
    target: Any, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    write_random_adapter(tmp_path, target, token_ids=range(8))
    damage(tmp_path)
    with pytest.raises(FormatError, match=message) as raised:
        read_adapter(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_tensors_of_other_shapes_are_none(target: Any) -> None:
    adapter = random_adapter(adapter_config(target))
    with pytest.raises(AssertionError, match="tensors of shapes"):
        AdapterWeights(replace(adapter.config, head_dim=32), adapter.tensors, None)


def test_what_does_not_fit_the_model_is_refused(target: Any, tmp_path: Path) -> None:
    other = gguf_target(tmp_path, "llama", "Q8_0", context_length=64)
    write_random_adapter(tmp_path / "other", other)
    with pytest.raises(OutpaceError, match=r"trained on another model \(a tiny model\); accepted are"):
        ExitAdapter(target, tmp_path / "other")
    write_random_adapter(tmp_path / "deep", target, layers=3)
    with pytest.raises(OutpaceError, match="stands behind 3 layers, accepted are 1 to 2 of the model's 3"):
        ExitAdapter(target, tmp_path / "deep")
    write_random_adapter(tmp_path / "wide", target, token_ids=[1, target.vocab_size])
    with pytest.raises(OutpaceError, match=f"drafts the token {target.vocab_size}, accepted are those of"):
        ExitAdapter(target, tmp_path / "wide")
    table: Any = TableTarget.random(vocab_size=4, order=1, seed=0)
    looped = looped_model(tmp_path, ("llama", "Q4_1", 2, 3, True, "f16"), context_length=64)
    for wrong in (table, looped):
        with pytest.raises(OutpaceError, match="accepted are native targets without loops"):
            ExitAdapter(wrong, tmp_path / "deep")


def test_exit_states_are_those_of_a_call_of_the_first_layers(target: Any, tmp_path: Path) -> None:
    """Of a whole call's states behind the layer, by the folder's norm."""
    from outpace.core.call import Call
    from outpace.core.tree import TokenTree

    write_random_adapter(tmp_path, target, layers=2)
    adapter, row = ExitAdapter(target, tmp_path), target.open()
    states = target.score([Call.on(row, TokenTree.chain(TEXT[0], TEXT[1:]))]).hidden("1")
    target.free([row])
    found = adapter.exit_states(states)
    np.testing.assert_allclose(found, exit_states(target, TEXT, 2), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "shape", [{}, {"num_heads": 6, "num_kv_heads": 3, "head_dim": 32, "rope_theta": 5e5}]
)
@pytest.mark.parametrize("ids", [None, [1, 5, 80]])
def test_a_text_and_a_tree_behind_it(
    target: Any, tmp_path: Path, shape: dict[str, Any], ids: list[int] | None
) -> None:
    weights = write_random_adapter(tmp_path, target, token_ids=ids, **shape)
    adapter = ExitAdapter(target, tmp_path)
    states = exit_states(target, TEXT, 1)
    wanted = adapted(weights, states)
    row = adapter.rows.open()
    read, residuals = adapter.inputs(states)
    outputs = adapter.rows.score([row], [0, 5], range(-1, 4), read, residuals)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-3)
    bare = np.abs(wanted[1:] - states[1:]).max()
    assert bare > 0.1  # the attention shows
    logits = adapter.logits(outputs)
    some = slice(None) if ids is None else ids
    np.testing.assert_allclose(
        logits[:, some], (wanted @ target.output_rows().T.astype(np.float64))[:, some], rtol=1e-3, atol=1e-3
    )
    if ids is not None:
        assert np.isneginf(np.delete(logits, ids, axis=1)).all()
    # Three are committed; a tree hangs on the fourth: its own token twice, as siblings.
    adapter.rows.keep(row, [1, 2])
    found = adapter.rows.score([row], [0, 3], [-1, 0, 0], read[[3, 4, 4]], residuals[[3, 4, 4]])
    np.testing.assert_allclose(found, wanted[[3, 4, 4]], rtol=1e-4, atol=1e-3)


def test_a_pass_of_other_positions_or_keys_is_another(target: Any, tmp_path: Path) -> None:
    """The comparison with torch tells these apart."""
    weights = random_adapter(adapter_config(target))
    states = exit_states(target, TEXT, 1)
    right = adapted(weights, states)
    flat = AdapterWeights(replace(weights.config, rope_theta=2.0), weights.tensors, None)
    swapped = dict(weights.tensors)
    swapped["self_attn.k_proj.weight"] = np.roll(swapped["self_attn.k_proj.weight"], 16, axis=0)
    for wrong in (flat, AdapterWeights(weights.config, swapped, None)):
        assert np.abs(adapted(wrong, states) - right).max() > 1e-2
