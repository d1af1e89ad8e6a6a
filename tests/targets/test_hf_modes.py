"""Targets under torch modes, and of models that change: types, autocast, training, in any order."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.targets.hf_cache import SlotCache  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402
from tests.rows import on, opened  # noqa: E402

MODES: dict[str, Callable[[], Any]] = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
PROMPT = [[5, 6, 7, 5, 6, 7, 5]]


def made(model_type: str) -> tuple[Any, dict[str, Any]]:
    """A model and what it reads."""
    if model_type in ("t5", "m2m_100", "whisper"):
        model = tiny_seq2seq(model_type)
        return model, sources(model, [5])
    model = tiny_model(model_type)
    return model, {"input_ids": torch.tensor(PROMPT)}


def theirs(model: Any, inputs: dict[str, Any], length: int) -> Any:
    options = {"max_new_tokens": length, "max_length": None, "eos_token_id": None, "num_beams": 1}
    return transformers.GenerationMixin.generate(model, **inputs, **options, do_sample=False)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "t5", "m2m_100", "whisper"])
def test_modes_in_any_order(model_type: str) -> None:
    """Every pair of modes, the second with a text so long that the cache has to grow."""
    model, inputs = made(model_type)
    long = 70 if "input_features" in inputs else 60
    for draft, (first, second) in zip(
        itertools.cycle(["none", "ngram:min_n=1,length=4"]), itertools.permutations(MODES, 2), strict=False
    ):
        fast = outpace.accelerate(model, draft=draft)
        for name, length in ((first, 5), (second, long), (first, 8)):
            with MODES[name]():
                ours = fast.generate(**inputs, max_new_tokens=length, eos_token_id=None)
                assert torch.equal(ours, theirs(model, inputs, length)), (first, second, name)


def test_a_text_goes_on_in_another_mode() -> None:
    model, inputs = made("llama")
    target = HfCausalTarget(model)
    (want,) = theirs(model, inputs, 8).tolist()
    for first, second in itertools.permutations(["inference", "no_grad", "grad"], 2):
        with MODES[first]():
            (row,), scores = opened(target, PROMPT)
        tokens = [*PROMPT[0], int(scores.logits(0, [0]).argmax())]
        while len(tokens) < 15:
            with MODES[second]():
                scores = target.score(on([row], [TokenTree.chain(tokens[-1], [9, 9])]))
                tokens.append(int(scores.logits(0, [0]).argmax()))
                target.keep([row], [[]])
        other = target.fork(row)
        assert tokens == want
        target.free([row, other])


def test_what_is_held_is_not_rounded_for_a_row_of_a_narrower_type() -> None:
    model, _ = made("llama")
    target = HfCausalTarget(model)
    (row,), _ = opened(target, PROMPT)
    with MODES["autocast"]():
        opened(target, [[3, 4, 5]])
    expected = HfCausalTarget(model)
    (alone,), _ = opened(expected, PROMPT)
    tree = [TokenTree.root(9)]
    assert (
        target.score(on([row], tree)).logits(0, [0]) == expected.score(on([alone], tree)).logits(0, [0])
    ).all()
    # The other way round: bf16 is held first.
    target = HfCausalTarget(model)
    with MODES["autocast"]():
        (narrow,), _ = opened(target, [[3, 4, 5]])
    (row,), _ = opened(target, PROMPT)
    assert (
        target.score(on([row], tree)).logits(0, [0]) == expected.score(on([alone], tree)).logits(0, [0])
    ).all()
    target.free([row, narrow])


def test_a_cache_takes_the_type_of_what_is_written() -> None:
    cache = SlotCache()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        (row,) = cache.open()
        cache.aim([row], 2)
        keys = torch.randn((1, 2, 2, 4)).to(dtype)
        seen, _ = cache.update(keys, keys, 0)
        assert seen.dtype == dtype and torch.equal(seen, keys)
        cache.free([row])


@pytest.mark.parametrize("model_type", ["llama", "t5"])
def test_a_model_that_is_converted_or_trained_meanwhile(model_type: str) -> None:
    model, inputs = made(model_type)
    fast = outpace.accelerate(model)
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float32):
        model.to(dtype)
        ours = fast.generate(**inputs, max_new_tokens=20, eos_token_id=None)
        assert torch.equal(ours, theirs(model, inputs, 20))
    model.requires_grad_(True).train()
    with pytest.raises(OutpaceError, match=r"training mode, accepted is model\.eval"):
        fast.generate(**inputs)
    model.eval()
    expected = theirs(model, inputs, 20)
    assert torch.equal(fast.generate(**inputs, max_new_tokens=20, eos_token_id=None), expected)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=int(expected[0, -9]), pad_token_id=0, decoder_start_token_id=298
    )
    replaced = fast.generate(**inputs, max_new_tokens=20)
    assert replaced.shape[1] < expected.shape[1]
    assert torch.equal(replaced, model.generate(**inputs, max_new_tokens=20))


def test_nothing_needs_gradients_afterwards() -> None:
    model, inputs = made("llama")
    fast = outpace.accelerate(model)
    with contextlib.ExitStack() as modes:
        modes.enter_context(torch.enable_grad())
        fast.generate(**inputs, max_new_tokens=4)
    layers: list[Any] = fast.target._cache.layers
    assert not any(store.requires_grad for layer in layers for store in layer.stores)
    loss = model(**inputs).logits.sum()
    loss.backward()
    assert model.get_input_embeddings().weight.grad is not None
