"""Models in wrappers of other libraries: adapters that are layers work, others are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import torch  # noqa: E402

import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402


class Lora(torch.nn.Module):
    """A linear layer with an adapter beside it, as peft has them."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer = base
        generator = torch.Generator().manual_seed(base.in_features)
        self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(base.in_features, 4, bias=False)})
        self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(4, base.out_features, bias=False)})
        self.active = True
        with torch.no_grad():
            for weight in (*self.lora_A.parameters(), *self.lora_B.parameters()):
                weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))

    def delta(self, x: Any) -> Any:
        return self.lora_B["default"](self.lora_A["default"](x))

    def forward(self, x: Any) -> Any:
        return self.base_layer(x) + self.delta(x) if self.active else self.base_layer(x)

    def merge(self) -> None:
        self.active = False
        down, up = *self.lora_A.parameters(), *self.lora_B.parameters()
        self.base_layer.weight.data += up @ down


class Tuner(torch.nn.Module):
    """peft's LoraModel: the model with layers put in."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.model(*args, **options)


class Peft(torch.nn.Module):
    """The structure of peft's PeftModel, whose forward hides the model's arguments."""

    def __init__(self, model: Any, **adapter: Any) -> None:
        super().__init__()
        names = ("q_proj", "v_proj", "q", "v")
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if name in names:
                    setattr(parent, name, Lora(child).eval())
        self.base_model = Tuner(model)
        self.peft_config = {
            "default": SimpleNamespace(**{"peft_type": SimpleNamespace(value="LORA")} | adapter)
        }
        self.eval()

    def get_base_model(self) -> Any:
        return self.base_model.model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.get_base_model(), name)

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        return self.base_model(input_ids=input_ids, attention_mask=attention_mask, **options)

    def generate(self, *args: Any, **options: Any) -> Any:
        model = self.get_base_model()
        model.generation_config = self.generation_config
        return model.generate(*args, **options)


OPTIONS: dict[str, Any] = {"max_new_tokens": 16, "eos_token_id": None}


@pytest.mark.parametrize("kernels", ["torch", "block"])
@pytest.mark.parametrize("model_type", ["llama", "opt", "t5", "bart"])
def test_adapters_that_are_layers(model_type: str, kernels: str) -> None:
    if model_type in ("t5", "bart"):
        model = tiny_seq2seq(model_type)
        model.generation_config.max_length = None
        inputs = sources(model, [5, 7])
    else:
        model = tiny_model(model_type, num_hidden_layers=2)
        inputs = {"input_ids": torch.tensor([[5, 6, 7, 5, 6, 7], [9, 8, 7, 6, 5, 4]])}
    without = model.generate(**inputs, **OPTIONS, do_sample=False)
    wrapped = Peft(model)
    fast = outpace.accelerate(wrapped, draft="ngram:min_n=1,length=4", kernels=kernels)
    assert fast.model is wrapped
    expected = wrapped.generate(**inputs, **OPTIONS, do_sample=False)
    assert not torch.equal(expected, without)
    assert torch.equal(fast.generate(**inputs, **OPTIONS), expected)
    adapters = [module for module in wrapped.modules() if isinstance(module, Lora)]
    for adapter in adapters:
        adapter.active = False
    assert torch.equal(fast.generate(**inputs, **OPTIONS), without)
    for adapter in adapters:
        adapter.merge()
    merged = wrapped.generate(**inputs, **OPTIONS, do_sample=False)
    assert not torch.equal(merged, without)
    assert torch.equal(fast.generate(**inputs, **OPTIONS), merged)


def test_the_wrappers_generation_config_counts() -> None:
    wrapped = Peft(tiny_model("llama"))
    fast = outpace.accelerate(wrapped)
    wrapped.generation_config = transformers.GenerationConfig(max_new_tokens=3, pad_token_id=0)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(fast.generate(ids), wrapped.generate(ids)) and fast.generate(ids).shape == (1, 6)
    wrapped.train()
    with pytest.raises(OutpaceError, match="training mode"):
        fast.generate(ids)


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        (
            {"is_prompt_learning": True, "peft_type": SimpleNamespace(value="PREFIX_TUNING")},
            "PREFIX_TUNING puts",
        ),
        ({"is_adaption_prompt": True}, "puts tokens or keys in front of every text"),
        ({"alora_invocation_tokens": [3]}, "acts on a part of the text alone"),
    ],
)
def test_adapters_that_are_no_layers_are_refused(adapter: dict[str, Any], why: str) -> None:
    for wrapped, target in (
        (Peft(tiny_model("llama"), **adapter), HfCausalTarget),
        (Peft(tiny_seq2seq("t5"), **adapter), HfSeq2SeqTarget),
    ):
        for make in (target, outpace.accelerate):
            with pytest.raises(OutpaceError, match=why):
                make(wrapped)


def test_wrappers_that_are_parallel_and_wrappers_in_wrappers() -> None:
    ids = torch.tensor([[5, 6, 7, 5, 6, 7]])
    model = tiny_model("llama")
    inner = Peft(model)
    expected = inner.generate(ids, **OPTIONS, do_sample=False)
    for wrapped in (
        torch.nn.DataParallel(model),
        torch.nn.DataParallel(inner),
        torch.compile(inner, backend="eager"),
    ):
        assert torch.equal(outpace.accelerate(wrapped).generate(ids, **OPTIONS), expected)
    drafted = outpace.accelerate(model, draft=torch.nn.DataParallel(inner))
    assert torch.equal(drafted.generate(ids, **OPTIONS), expected)


def test_dynamic_quantisation_is_refused_for_what_it_does() -> None:
    """Its layers give a token other outputs beside others: drafts would change the text."""
    with pytest.warns() as said:
        layer = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(8, 8)))
        model = torch.ao.quantization.quantize_dynamic(tiny_model("llama"), {torch.nn.Linear})
    assert said
    x = torch.randn((2, 8), generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [9.0]])
    assert not torch.equal(layer(x)[:1], layer(x[:1]))
    for make in (HfCausalTarget, outpace.accelerate):
        with pytest.raises(OutpaceError, match=r"quantised dynamically \(Linear\).*accepted are models"):
            make(model)


def test_what_is_no_model_is_refused() -> None:
    head = torch.nn.Module()
    head.pretrained_model = tiny_model("llama")
    for thing, why in (
        ("gpt2", "a str is no transformers model, accepted are a PreTrainedModel"),
        (None, "a NoneType is no"),
        (torch.nn.Linear(2, 2), "a Linear is no"),
        (head, r"a Module is no.*; its \.pretrained_model is one"),
    ):
        with pytest.raises(OutpaceError, match=why):
            outpace.accelerate(thing)  # type: ignore[arg-type]
    with pytest.raises(OutpaceError, match="a Linear is no"):
        outpace.accelerate(tiny_model("llama"), draft=torch.nn.Linear(2, 2))
