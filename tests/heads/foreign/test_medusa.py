"""Medusa heads of others: they draft here as they do there, and come back as they went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import FormatError  # noqa: E402
from outpace.heads.foreign.giving import give_out  # noqa: E402
from outpace.heads.foreign.taking import take_in  # noqa: E402
from outpace.heads.medusa import read_medusa  # noqa: E402
from outpace.heads.medusa_heads import MedusaHeads  # noqa: E402
from tests.foreign_heads import (  # noqa: E402
    DRAFTED,
    VOCAB,
    WIDTH,
    bits,
    bits_of,
    config_in,
    write_medusa,
    write_vllm_medusa,
)
from tests.heads.foreign.conftest import Tiny  # noqa: E402
from tests.made_heads import write_random_medusa  # noqa: E402

IDS = sorted(DRAFTED)


def taken(tiny: Tiny, folder: Path, output: Path, **options: Any) -> Any:
    return take_in(folder, tiny.target, "tiny", output, **options)


def residual(x: Any, weight: Any, bias: Any) -> Any:
    return x + torch.nn.functional.silu(torch.nn.functional.linear(x, weight, bias))


def states() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(4, WIDTH)).astype(np.float32)


def test_originals_draft_as_their_equations_say(tiny: Tiny, tmp_path: Path) -> None:
    tensors = {name: tensor.double() for name, tensor in write_medusa(tmp_path / "a").items()}
    layout = taken(tiny, tmp_path / "a", tmp_path / "b")
    assert layout.target == "lmsys/tiny" and layout.what == "Medusa heads, original layout"
    found = MedusaHeads(tiny.target, tmp_path / "b").logits(states())
    for head in range(3):
        x = torch.from_numpy(states()).double()
        for layer in range(2):
            x = residual(x, *(tensors[f"{head}.{layer}.linear.{part}"] for part in ("weight", "bias")))
        wanted = (x @ tensors[f"{head}.2.weight"].T).numpy()
        np.testing.assert_allclose(found[:, head], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("whole_rows", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_vllms_draft_as_their_equations_say(tiny: Tiny, tmp_path: Path, whole_rows: bool, bias: bool) -> None:
    """The map names tokens in any order, of rows in that order, or of a matrix with all rows."""
    given = write_vllm_medusa(
        tmp_path / "a", ids=DRAFTED, whole_rows=whole_rows, bias=bias, prefix="medusa_heads."
    )
    tensors = {name: tensor.double() for name, tensor in given.items()}
    taken(tiny, tmp_path / "a", tmp_path / "b")
    heads = MedusaHeads(tiny.target, tmp_path / "b")
    found = heads.whole(heads.logits(states()).reshape(-1, len(IDS))).reshape(4, 3, VOCAB)
    for head in range(3):
        name = f"blocks.{head}.layers.0"
        x = residual(
            torch.from_numpy(states()).double(), tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        )
        output = tensors[f"lm_heads.{head}.weight"]
        wanted = (x @ (output[list(DRAFTED)] if whole_rows else output).T).numpy()
        np.testing.assert_allclose(found[:, head][:, list(DRAFTED)], wanted, rtol=1e-3, atol=1e-3)
        assert np.isneginf(np.delete(found[:, head], list(DRAFTED), axis=1)).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"ids": IDS}, {"shared": True, "bias": False}, {"shared": True, "ids": IDS}, {"ids": range(VOCAB)}],
    ids=str,
)
def test_vllms_come_back_bit_by_bit(tiny: Tiny, tmp_path: Path, options: dict[str, Any]) -> None:
    tensors = write_vllm_medusa(tmp_path / "a", **options)
    taken(tiny, tmp_path / "a", tmp_path / "b")
    read_medusa(tmp_path / "b")
    given = give_out(tmp_path / "b", tmp_path / "c")
    assert given.what == "Medusa heads, vLLM's layout"
    some, hint = (
        len(options.get("ids", range(VOCAB))) < VOCAB,
        "track" if "shared" in options else "--outputs",
    )
    assert [hint in note for note in given.notes] == [True] * some
    assert bits(tmp_path / "c") == bits_of(tensors)
    theirs, again = config_in(tmp_path / "a"), config_in(tmp_path / "c")
    assert {name: again[name] for name in theirs} == theirs
    assert not again.keys() & {"method", "version", "target", "model"}


@pytest.mark.parametrize("options", [{}, {"token_ids": IDS}, {"original_lm_head": True}], ids=str)
def test_ours_come_back_bit_by_bit(tiny: Tiny, tmp_path: Path, options: dict[str, Any]) -> None:
    write_random_medusa(tmp_path / "a", tiny.target, **options)
    give_out(tmp_path / "a", tmp_path / "b")
    taken(tiny, tmp_path / "b", tmp_path / "c")
    assert bits(tmp_path / "c") == bits(tmp_path / "a")
    assert config_in(tmp_path / "c") == config_in(tmp_path / "a") | {"model": "tiny"}


def test_an_original_goes_out_under_vllms_names(tiny: Tiny, tmp_path: Path) -> None:
    tensors = write_medusa(tmp_path / "a")
    taken(tiny, tmp_path / "a", tmp_path / "b")
    give_out(tmp_path / "b", tmp_path / "c")
    wanted = {}
    for name, tensor in tensors.items():
        head, layer, *rest = name.split(".")
        new = f"blocks.{head}.layers.{layer}.{rest[-1]}" if rest[0] == "linear" else f"lm_heads.{head}.weight"
        wanted[new] = tensor
    assert bits(tmp_path / "c") == bits_of(wanted)


def test_a_pickled_original(tiny: Tiny, tmp_path: Path) -> None:
    tensors = write_medusa(tmp_path / "a")
    taken(tiny, tmp_path / "a", tmp_path / "plain")
    (tmp_path / "a" / "medusa_lm_head.safetensors").unlink()
    torch.save(tensors, tmp_path / "a" / "medusa_lm_head.pt")
    with pytest.raises(FormatError, match=r"medusa_lm_head\.pt is a pickle.*--allow-pickle"):
        taken(tiny, tmp_path / "a", tmp_path / "b")
    taken(tiny, tmp_path / "a", tmp_path / "b", allow_pickle=True)
    assert bits(tmp_path / "b") == bits(tmp_path / "plain")


def test_heads_are_counted(tiny: Tiny, tmp_path: Path) -> None:
    """Published folders have said two and held five."""
    write_medusa(tmp_path / "a", heads=5, said=2)
    layout = taken(tiny, tmp_path / "a", tmp_path / "b")
    assert layout.notes == ("config.json says 2 heads, the weights have 5: these count",)
    assert read_medusa(tmp_path / "b").config.num_heads == 5


def test_a_model_with_another_vocabulary_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    write_random_medusa(tmp_path / "a", tiny.target)
    said = rf"a is for a model of {VOCAB} tokens and this one has {VOCAB - 1}; accepted is its own model"
    with pytest.raises(FormatError, match=said):
        give_out(tmp_path / "a", tmp_path / "b", vocab_size=VOCAB - 1)
    assert not (tmp_path / "b").exists()
    give_out(tmp_path / "a", tmp_path / "b", vocab_size=VOCAB)
