"""The final norm between loops, in whole calls and in parts of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outpace.core.call import Call
from outpace.core.tree import TokenTree
from outpace.targets.native import NativeTarget
from tests.fake_models import make_model, write_hf
from tests.native_loops import (
    MODELS,
    PROMPTS,
    looped,
    looped_model,
)
from tests.native_models import open_target
from tests.rows import on, opened


@pytest.fixture(params=[model for model in MODELS if model[4]], ids=str, scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeTarget:
    return looped_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.mark.parametrize("loops", [2, 3])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_norm_between_loops_is_that_of_transformers(family: str, loops: int, tmp_path: Path) -> None:
    """A transformers model that repeats its layers and has its last norm behind each loop."""
    changes: dict[str, Any] = {"layer_types": ["sliding_attention"] * 2 * loops} if family == "gemma3" else {}
    short = write_hf(tmp_path / "short", family, num_hidden_layers=2).state_dict()
    long = make_model(family, num_hidden_layers=2 * loops, **changes)
    for name, tensor in long.state_dict().items():
        tensor.copy_(short[re.sub(r"layers\.(\d+)", lambda m: f"layers.{int(m[1]) % 2}", name)])
    hooks = 0
    for layer in long.model.layers[1:-1:2]:
        layer.register_forward_hook(lambda _, __, out: long.model.norm(out))
        hooks += 1
    assert hooks == loops - 1
    once = open_target(tmp_path / "short", tmp_path / "cache")
    target = looped(once, loops, loop_norm=True, kv="f32")
    plain = looped(once, loops, kv="f32")
    assert target.fingerprint() != plain.fingerprint()
    tokens = PROMPTS[2][:7]  # within the windows
    with torch.no_grad():
        expected = long(torch.tensor([tokens])).logits[0].numpy()
    call = [Call.on(target.open(), TokenTree.chain(tokens[0], tokens[1:]))]
    np.testing.assert_allclose(target.score(call).logits(0, range(7)), expected, atol=1e-4, rtol=1e-4)
    plain.open()
    assert abs(plain.score(call).logits(0, range(7)) - expected).max() > 0.1


def test_a_call_in_parts_has_the_norm_of_each_loop_once(target: NativeTarget) -> None:
    rows, _ = opened(target, PROMPTS)
    trees = [TokenTree([5, 6, 7, 8], [-1, 0, 0, 2])] * 3
    whole = target.score(on(rows, trees))
    expected = [whole.logits(row, range(4)) for row in range(3)]
    per_loop = target.num_layers // target.num_loops
    for steps in ([per_loop], [1, per_loop], range(1, target.num_layers + 1)):
        for layers in steps:
            part = target.run(on(rows, trees), layers=layers)
            found = [part.logits(row, range(4)) for row in range(3)]
            fresh, _ = opened(target, PROMPTS)
            direct = target.run(on(fresh, trees), layers=layers)
            for row in range(3):
                np.testing.assert_array_equal(found[row], direct.logits(row, range(4)))
            target.free(fresh)
        scores = target.score(on(rows, trees))
        for row in range(3):
            np.testing.assert_array_equal(scores.logits(row, range(4)), expected[row])
    target.free(rows)
