"""Numbers that are none never reach a packed file: every type, every place where a block keeps a scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from outpace.core.errors import FormatError
from outpace.files.gguf import GGUFFile
from outpace.files.open import open_model
from outpace.files.quants import quantise_q4, quantise_q8
from tests.fake_models import TENSOR_TYPES, write_gguf, write_hf

# Type -> bytes of a block, and where in it the f16 scales and minimums are.
BLOCKS = {
    "Q4_0": (18, (0,)),
    "Q4_1": (20, (0, 2)),
    "Q5_0": (22, (0,)),
    "Q5_1": (24, (0, 2)),
    "Q8_0": (34, (0,)),
    "Q4_K": (144, (0, 2)),
    "Q5_K": (176, (0, 2)),
    "Q6_K": (210, (208,)),
}
FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
NAN_AND_INFINITIES = {
    "F32": (0x7FC00000, 0x7F800001, 0xFF800000, 0x7F800000),
    "F16": (0x7E00, 0xFC01, 0xFC00, 0x7C00),
    "BF16": (0x7FC0, 0xFF81, 0xFF80, 0x7F80),
}
CASES = [(name, nbytes, at) for name, (nbytes, places) in BLOCKS.items() for at in places]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A GGUF file of each tensor type, written once."""
    folder = tmp_path_factory.mktemp("types")

    def file(type_name: str) -> Path:
        path = folder / f"{type_name}.gguf"
        if not path.exists():
            write_gguf(
                path,
                "qwen2",
                tensor_type=type_name,
                hidden_size=256,
                intermediate_size=256,
                num_hidden_layers=1,
            )
        return path

    return file


def damaged(source: Path, target: Path, tensor: str, at: int, value: bytes) -> Path:
    """A copy of a GGUF file with a few bytes of a tensor replaced."""
    content = bytearray(source.read_bytes())
    start = GGUFFile(source).tensors[tensor].offset + at
    content[start : start + len(value)] = value
    target.write_bytes(content)
    return target


def test_all_types_are_covered() -> None:
    assert {*BLOCKS, *FLOATS} == set(TENSOR_TYPES)


@pytest.mark.parametrize(("type_name", "nbytes", "at"), CASES)
def test_scales_that_are_no_numbers_are_refused(
    file_of: Callable[[str], Path], tmp_path: Path, cache: Path, type_name: str, nbytes: int, at: int
) -> None:
    source = file_of(type_name)
    for tensor, block, bits in (
        ("blk.0.ffn_up.weight", 0, 0x7E00),
        ("blk.0.attn_q.weight", 255, 0xFC00),
        ("token_embd.weight", 299, 0x7C00),
    ):
        value = np.array([bits], "<u2").tobytes()
        bad = damaged(source, tmp_path / "bad.gguf", tensor, block * nbytes + at, value)
        with pytest.raises(FormatError, match=f"'{tensor}' holds values that are not finite"):
            open_model(bad)
        assert not list(cache.glob("packed/*"))


@pytest.mark.parametrize("type_name", FLOATS)
def test_floats_that_are_no_numbers_are_refused(
    file_of: Callable[[str], Path], tmp_path: Path, type_name: str
) -> None:
    source, size = file_of(type_name), FLOATS[type_name]
    last = 256 * 256 - 1
    for bits in NAN_AND_INFINITIES[type_name]:
        for tensor, place in (("blk.0.ffn_down.weight", last), ("token_embd.weight", 0)):
            value = np.array([bits], f"<u{size}").tobytes()
            bad = damaged(source, tmp_path / "bad.gguf", tensor, place * size, value)
            with pytest.raises(FormatError, match=f"'{tensor}' holds values that are not finite"):
                open_model(bad)
    for tensor in ("blk.0.attn_norm.weight", "blk.0.attn_k.bias", "output_norm.weight"):
        bad = damaged(source, tmp_path / "bad.gguf", tensor, 4, np.array([np.inf], "<f4").tobytes())
        with pytest.raises(FormatError, match=f"'{tensor}' holds values that are not finite"):
            open_model(bad)


@pytest.mark.parametrize("type_name", ["Q4_K", "Q5_K"])
def test_products_beyond_f16_are_refused(
    file_of: Callable[[str], Path], tmp_path: Path, type_name: str
) -> None:
    """The scale of a sub-block is a product, which is too large where both factors are at their limits."""
    nbytes, _ = BLOCKS[type_name]
    value = np.array([60000.0], "<f2").tobytes() + b"\0\0" + b"\xff" * 12
    bad = damaged(file_of(type_name), tmp_path / "bad.gguf", "blk.0.ffn_up.weight", 3 * nbytes, value)
    with pytest.raises(FormatError, match=r"'blk\.0\.ffn_up\.weight' holds values that are not finite"):
        open_model(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("quantize", [None, "q8", "q4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_folders_with_numbers_that_are_none_are_refused(
    tmp_path: Path, value: float, quantize: str | None, dtype: str
) -> None:
    write_hf(tmp_path / "model", "llama", num_hidden_layers=1, dtype=dtype)
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][5, 7] = torch.tensor(value)
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(FormatError, match=r"q_proj\.weight' holds values that are not finite"):
        open_model(tmp_path / "model", quantize=quantize)


@pytest.mark.parametrize("quantise", [quantise_q8, quantise_q4])
def test_weights_too_large_for_a_scale_are_told(quantise) -> None:  # type: ignore[no-untyped-def]
    weights = np.zeros((2, 64), np.float32)
    weights[0, 3] = 60000.0
    assert quantise(weights).is_finite()
    weights[0, 3] = 1e30
    with np.errstate(all="ignore"):
        assert not quantise(weights).is_finite()
