"""Products beside a torch model, by torch and by the block kernels, against numpy in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.files.packing import GROUP  # noqa: E402
from outpace.targets import hf_products  # noqa: E402
from outpace.targets.hf_products import RoundedProduct, TorchProduct  # noqa: E402

RANDOM = np.random.default_rng(6)


@pytest.mark.parametrize("kind", [TorchProduct, RoundedProduct])
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 2e-2), ("float16", 3e-3)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_products_are_numpys(kind: Any, dtype: str, error: float, with_bias: bool) -> None:
    for rows, cols, count in ((7, 5, 1), (33, 32, 3), (300, 72, 17)):
        weight = torch.from_numpy(RANDOM.normal(size=(rows, cols))).to(getattr(torch, dtype))
        bias = torch.from_numpy(RANDOM.normal(size=rows)).to(weight.dtype) if with_bias else None
        product: Any = TorchProduct(
            weight.requires_grad_(), bias, lambda logits: torch.tanh(logits.float() / 3)
        )
        product = product.rounded() if kind is RoundedProduct else product
        x = RANDOM.normal(size=(count, cols)).astype(np.float32)
        expected = x @ weight.detach().double().numpy().T
        if bias is not None:
            expected += bias.double().numpy()
        found = product(x)
        assert found.dtype == np.float32 and product.num_outputs == rows
        rounded = kind is RoundedProduct and cols % GROUP == 0
        error = max(error, 1e-2) if rounded else error
        assert np.abs(found - np.tanh(expected / 3)).max() < error * np.sqrt(cols)
        assert not rounded or np.abs(found - np.tanh(expected / 3)).max() > 1e-4


def test_the_block_kernels_lose_nothing_where_groups_do_not_divide_the_columns() -> None:
    x = RANDOM.normal(size=(3, 40)).astype(np.float32)
    narrow = torch.from_numpy(RANDOM.normal(size=(20, 40))).to(torch.bfloat16)
    np.testing.assert_allclose(
        TorchProduct(narrow).rounded()(x), x @ narrow.float().numpy().T, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("size", [1, 49])
def test_a_bias_of_another_size_is_not_spread(size: int) -> None:
    product = TorchProduct(torch.zeros(50, 64), torch.ones(size))
    with pytest.raises(AssertionError, match="one bias per output"):
        product.rounded()


def test_bits_do_not_depend_on_other_rows() -> None:
    product = TorchProduct(torch.from_numpy(RANDOM.normal(size=(50, 64)).astype(np.float32))).rounded()
    x = RANDOM.normal(size=(9, 64)).astype(np.float32)
    np.testing.assert_array_equal(product(x), np.concatenate([product(row[None]) for row in x]))


def test_small_matrices_on_the_cpu_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.ones(4, 8)
    rounded = TorchProduct(weight).rounded()
    assert isinstance(rounded, RoundedProduct) and rounded.rounded() is rounded
    there = TorchProduct(weight.to("meta"))
    assert there.rounded() is there
    monkeypatch.setattr(hf_products, "MOST_WEIGHTS", 31)
    assert isinstance(TorchProduct(weight).rounded(), TorchProduct)
