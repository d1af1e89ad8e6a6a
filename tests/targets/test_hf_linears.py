"""Linear layers by the block kernels: torch's logits, bits that no neighbour changes, nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace import _native  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.targets import hf_linears  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.hf_linears import MOST_NODES, BlockLinears, linears_of  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402

PROMPT = [5, 17, 3, 250, 9, 5, 17]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", num_hidden_layers=2)


def linear(**options: Any) -> Any:
    torch.manual_seed(3)
    return torch.nn.Linear(40, 70, **options)


class Model(torch.nn.Module):
    """One layer, and what the target looks at."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def get_output_embeddings(self) -> Any:
        return self.layer

    def forward(self, x: Any) -> Any:
        return self.layer(x)


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_torchs_and_a_row_does_not_see_the_others(bias: bool) -> None:
    layer = linear(bias=bias)
    one, x = Model(layer), torch.randn(2, 9, 40)
    with torch.no_grad(), BlockLinears(one)():
        found = one(x)
        alone = torch.stack([one(row) for row in x.flatten(0, 1)]).view(2, 9, 70)
        turned = one(x.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(found, alone) and torch.equal(found, turned)
    with torch.no_grad(), BlockLinears(one)():
        many = torch.randn(MOST_NODES + 1, 40)
        assert torch.equal(one(many), torch.nn.functional.linear(many, layer.weight, layer.bias))


def test_the_model_is_as_before_whatever_happens_within() -> None:
    one = Model(linear())
    linears = BlockLinears(one)
    with pytest.raises(ZeroDivisionError), linears():
        assert "forward" in vars(one.layer)
        raise ZeroDivisionError
    assert "forward" not in vars(one.layer)


def test_who_calls_a_layer_in_another_way_already_goes_on() -> None:
    one = Model(linear())
    one.layer.forward = lambda x: x * 2
    with pytest.raises(OutpaceError, match="no linear layer"):
        BlockLinears(one)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt"])
def test_trees_score_as_with_torch(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[int] = []

    def counted(*arguments: Any) -> Any:
        products.append(len(arguments[-1]))
        return multiply(*arguments)

    multiply = _native.multiply
    monkeypatch.setattr(_native, "multiply", counted)
    model = tiny_model(family, **({} if family == "gemma3_text" else {"num_hidden_layers": 2}))
    tree = TokenTree([3, 4, 5, 6, 7], [-1, 0, 0, 1, 3])
    logits = []
    for kernels in ("torch", "block"):
        target = HfCausalTarget(model, kernels=kernels)
        rows, first = target.prefill([PROMPT, PROMPT[2:]])
        target.keep(rows, [[], []])
        scores = target.score(rows, [tree, TokenTree.root(3)])
        found = [first.logits(0, [0]), scores.logits(0, range(5)), scores.logits(1, [0])]
        logits.append([torch.from_numpy(part) for part in found])
        assert bool(products) == (kernels == "block")
    for ours, theirs in zip(logits[1], logits[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("draft", ["none", "ngram"])
def test_generate_gives_the_models_own_tokens(model: Any, draft: str) -> None:
    ids = torch.tensor([PROMPT])
    options = {"max_new_tokens": 32, "do_sample": False}
    expected = model.generate(ids, **options, pad_token_id=0)
    assert torch.equal(
        outpace.accelerate(model, draft=draft, kernels="block").generate(ids, **options), expected
    )


def test_draft_models_and_decoders_multiply_so_too(model: Any) -> None:
    fast: Any = outpace.accelerate(model, draft=model, kernels="block")
    assert isinstance(fast.drafter.inner._draft.target._linears, BlockLinears)
    other = tiny_seq2seq("marian", decoder_layers=1)
    inputs = sources(other, [4])
    expected = other.generate(**inputs, max_new_tokens=12, do_sample=False)
    fast = outpace.accelerate(other, kernels="block")
    assert isinstance(fast.target._linears, BlockLinears)
    assert torch.equal(fast.generate(**inputs, max_new_tokens=12), expected)


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutpaceError, match="accepted are torch, block"):
        linears_of(Model(linear()), "blocks")
    with pytest.raises(OutpaceError, match=r"is torch.bfloat16 on cpu, and kernels='block' accepts"):
        BlockLinears(Model(linear().bfloat16()))
    compiled = Model(linear())
    compiled._orig_mod = compiled.layer
    with pytest.raises(OutpaceError, match="is compiled"):
        BlockLinears(compiled)
    monkeypatch.setattr(hf_linears, "MOST_WEIGHTS", 40 * 70 - 1)
    with pytest.raises(OutpaceError, match="no linear layer of the model has 2799 weights or fewer"):
        BlockLinears(Model(linear()))
