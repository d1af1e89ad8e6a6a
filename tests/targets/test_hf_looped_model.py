"""Looped models in torch: the logits of every loop, with and without a cache, written and read again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    StaticCache,
)

from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.targets.hf_looped_model import (  # noqa: E402
    LoopedConfig,
    LoopedForCausalLM,
    OuroConfig,
    OuroForCausalLM,
)
from tests.fake_models import VOCAB_SIZE  # noqa: E402
from tests.looped_models import LOOPED, loop_logits, write_looped  # noqa: E402

PROMPT = [int(t) for t in np.random.default_rng(0).integers(0, VOCAB_SIZE - 4, 21)]
BOUND = 2e-4


@pytest.fixture(params=LOOPED, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    write_looped(folder, request.param)
    return folder


def model_of(folder: Path) -> Any:
    kind = OuroForCausalLM if "ouro" in folder.name else LoopedForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def test_logits_after_every_loop(folder: Path) -> None:
    model, expected = model_of(folder), loop_logits(folder, PROMPT)
    with torch.no_grad():
        output = model(torch.tensor([PROMPT]), output_hidden_states=True)
        loops = [model.lm_head(states[0]) for states in output.hidden_states[1:]]
    assert len(loops) == len(expected) == model.config.num_loops
    for ours, theirs in zip(loops, expected, strict=True):
        assert (ours - theirs).abs().max() < BOUND
    assert torch.equal(output.logits[0], loops[-1])


@pytest.mark.parametrize("made_for", ["nothing", "config"])
def test_a_cache_of_transformers_changes_nothing(folder: Path, made_for: str) -> None:
    model = model_of(folder)
    cache = DynamicCache(config=model.config) if made_for == "config" else DynamicCache()
    with torch.no_grad():
        parts = [
            model(torch.tensor([part]), past_key_values=cache).logits[0]
            for part in (PROMPT[:6], PROMPT[6:7], PROMPT[7:])
        ]
    assert (torch.cat(parts) - loop_logits(folder, PROMPT)[-1]).abs().max() < BOUND
    assert len(cache.layers) == model.config.num_loops * model.config.num_hidden_layers


def test_generate_continues_with_the_likeliest(folder: Path) -> None:
    model = model_of(folder)
    prompts = torch.tensor([PROMPT, [VOCAB_SIZE - 1] * 3 + PROMPT[3:]])
    mask = torch.ones_like(prompts)
    mask[1, :3] = 0
    made = model.generate(prompts, attention_mask=mask, max_new_tokens=8, do_sample=False)
    for row, begin in enumerate((PROMPT, PROMPT[3:])):
        text = list(begin)
        for token in made[row, len(PROMPT) :].tolist():
            assert token == loop_logits(folder, text)[-1, -1].argmax()
            text.append(token)


def test_what_is_saved_is_read_again(folder: Path, tmp_path: Path) -> None:
    model = model_of(folder)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    reader = OuroForCausalLM if "ouro" in folder.name else AutoModelForCausalLM
    again = reader.from_pretrained(tmp_path)
    assert type(again) is type(model)
    with torch.no_grad():
        ids = torch.tensor([PROMPT])
        assert torch.equal(model(ids).logits, again.eval()(ids).logits)


def test_equals_a_llama_that_repeats_its_layers() -> None:
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
    }
    looped = LoopedForCausalLM(LoopedConfig(**sizes, num_hidden_layers=2, num_loops=3)).eval()
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=6)).eval()
    short = looped.state_dict()
    for name, tensor in llama.state_dict().items():
        tensor.copy_(short[re.sub(r"layers\.(\d+)", lambda m: f"layers.{int(m[1]) % 2}", name)])
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        assert torch.equal(looped(ids).logits, llama(ids).logits)


def test_gradients_reach_early_and_late_loops() -> None:
    model = LoopedForCausalLM(
        LoopedConfig(vocab_size=50, hidden_size=32, intermediate_size=32, num_attention_heads=2, num_loops=3)
    ).train()
    states = model(torch.tensor([[1, 2, 3]]), output_hidden_states=True, use_cache=False).hidden_states
    model.lm_head(states[1]).square().sum().backward()
    assert all(layer.mlp.up_proj.weight.grad.abs().max() > 0 for layer in model.model.layers)


@pytest.mark.parametrize("value", [0, 65, -1, 2.0, "3", True, None])
@pytest.mark.parametrize(("kind", "name"), [(LoopedConfig, "num_loops"), (OuroConfig, "total_ut_steps")])
def test_impossible_numbers_of_loops_are_refused(kind: type, name: str, value: Any) -> None:
    with pytest.raises(OutpaceError, match=rf"{name} is .*accepted is a whole number from 1 to 64"):
        kind(**{name: value})


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.999, "1"])
def test_tokens_may_not_leave_early(threshold: Any) -> None:
    with pytest.raises(OutpaceError, match=r"early_exit_threshold is .*accepted is 1"):
        OuroConfig(early_exit_threshold=threshold)


def test_windows_and_other_caches_are_refused() -> None:
    windows: dict[str, Any] = {"use_sliding_window": True}
    with pytest.raises(OutpaceError, match="use_sliding_window is true, accepted is false"):
        OuroConfig(**windows)
    config = LoopedConfig(vocab_size=50, hidden_size=32, intermediate_size=32, num_attention_heads=2)
    cache = StaticCache(config=config, max_cache_len=8)
    with pytest.raises(
        OutpaceError, match="the StaticCache has 32 layers and the model 64, accepted is a Dyn"
    ):
        LoopedForCausalLM(config)(torch.tensor([[1]]), past_key_values=cache)
    with pytest.raises(OutpaceError, match="either input_ids or inputs_embeds"):
        LoopedForCausalLM(config)()
