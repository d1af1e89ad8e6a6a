"""Linear layers by the block kernels: torch's logits, bits that no neighbour changes, nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch
from torch.nn.utils import prune

import outpace
from outpace import _native
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.targets import hf_linears
from outpace.targets.hf_causal import HfCausalTarget
from outpace.targets.hf_linears import MOST_NODES, BlockLinears, linears_of
from tests.hf_families import tiny_model
from tests.hf_seq2seq_families import sources, tiny_seq2seq
from tests.rows import on, opened

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
        assert one(torch.empty(0, 40)).shape == (0, 70) and one(torch.empty(2, 0, 40)).shape == (2, 0, 70)


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
        rows, first = opened(target, [PROMPT, PROMPT[2:]])
        scores = target.score(on(rows, [tree, TokenTree.root(3)]))
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
    assert isinstance(fast.drafter()._target._linears, BlockLinears)
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


def in_place(model: Any) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-0.7)


def by_data(model: Any) -> None:
    """As adapters are merged: torch counts no change."""
    for weight in model.parameters():
        weight.data += 1.5 * weight.data.flip(0)


def new_memory(model: Any) -> None:
    for weight in model.parameters():
        weight.data = weight.data.flip(0).clone()


def new_parameters(model: Any) -> None:
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.weight = torch.nn.Parameter(module.weight.detach().roll(1, 0))


def loaded(model: Any) -> None:
    weights = {name: value.flip(0) for name, value in model.state_dict().items()}
    model.load_state_dict(weights)


def assigned(model: Any) -> None:
    weights = {name: value.flip(0).clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)


def trained(model: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.tensor([PROMPT])).logits.square().mean().backward()
    optimizer.step()


def converted(model: Any) -> None:
    in_place(model)
    model.double().float()


@pytest.mark.parametrize(
    "change", [in_place, by_data, new_memory, new_parameters, loaded, assigned, trained, converted]
)
def test_weights_that_change_are_followed(change: Any) -> None:
    model = tiny_model("opt", num_hidden_layers=2)  # whose layers have biases
    fast = outpace.accelerate(model, draft="ngram:min_n=1,length=4", kernels="block")
    ids = torch.tensor([PROMPT])

    def theirs() -> Any:
        return model.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)

    before = theirs()
    assert torch.equal(fast.generate(ids, max_new_tokens=24, eos_token_id=None), before)
    change(model)
    assert not torch.equal(theirs(), before)
    assert torch.equal(fast.generate(ids, max_new_tokens=24, eos_token_id=None), theirs())


def normed(layer: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(-2)


def pruned(layer: Any) -> None:
    prune.random_unstructured(layer, "weight", 0.6)


def patched(layer: Any) -> None:
    own = layer.forward
    layer.forward = lambda x: -own(x)


@pytest.mark.parametrize("change", [normed, pruned, patched])
def test_layers_that_become_others_are_left_to_torch(change: Any) -> None:
    layer = linear()
    one, x = Model(layer), torch.randn(3, 40)
    linears = BlockLinears(one)

    def both() -> tuple[Any, Any]:
        linears.look()
        with torch.no_grad(), linears():
            found = one(x)
        return found, one(x).detach()

    before, _ = both()
    change(layer)
    found, theirs = both()
    assert torch.equal(found, theirs) and not torch.allclose(found, before)
    linears.refresh()
    assert torch.equal(*both())


def test_a_pruned_layer_is_followed_once_its_weights_are_its_own() -> None:
    layer = linear()
    pruned(layer)
    one, x = Model(layer), torch.randn(3, 40)
    linears = BlockLinears(one)
    for _ in range(2):
        linears.look()
        with torch.no_grad(), linears():
            found = one(x)
        torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)
        if prune.is_pruned(layer):
            prune.remove(layer, "weight")


def test_what_nobody_notices_is_refreshed() -> None:
    layer = linear()
    one, x = Model(layer), torch.randn(3, 40)
    linears = BlockLinears(one)

    def off() -> float:
        linears.look()
        with torch.no_grad(), linears():
            return float((one(x) - torch.nn.functional.linear(x, layer.weight, layer.bias)).abs().max())

    assert off() < 1e-5
    layer.weight.data[1, 1] += 5.0  # none of those that are compared
    assert off() > 1
    linears.refresh()
    assert off() < 1e-5
    layer.bias.data += 3.0  # there is no copy of a bias
    assert off() < 1e-5
    fast: Any = outpace.accelerate(tiny_model("llama", num_hidden_layers=1), kernels="block")
    first = fast.target._linears._layers[0]
    before = first._multiply
    fast.refresh()
    assert first._multiply is not before


def test_a_model_that_is_converted_meanwhile_is_refused() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    fast = outpace.accelerate(model, kernels="block")
    model.to(torch.bfloat16)
    with pytest.raises(OutpaceError, match=r"is torch\.bfloat16 on cpu, and kernels='block' accepts"):
        fast.generate(torch.tensor([PROMPT]), max_new_tokens=2)
    model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model.generate(torch.tensor([PROMPT]), max_new_tokens=9, pad_token_id=0, do_sample=False)
        assert torch.equal(fast.generate(torch.tensor([PROMPT]), max_new_tokens=9), expected)
