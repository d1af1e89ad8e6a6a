"""Layers that run several times: they have their own keys, and the bits of a file that repeats them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from outpace.core.contracts import Drafter
from outpace.core.errors import FormatError, OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.model.layer_skip import LayerSkip
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.rules.match import Match
from outpace.targets.native import NativeTarget
from tests.fake_models import make_model, write_hf, write_tokenizer
from tests.fakes import whole
from tests.native_models import open_target
from tests.rows import on, opened

PROMPTS = [[5, 9, 2, 77, 120, 5, 9] * 5, [3, 250]]
# (family, whose weights each layer runs, kind of weights). Layer 5 of gemma3 has no window, its twin has one.
CASES = [
    ("llama", (0, 1, 0, 1), "q4"),
    ("qwen3", (0, 0, 1, 1), None),
    ("gemma3", (0, 1, 2, 0, 1, 2), "q8"),
]


@pytest.fixture(params=CASES, ids=lambda case: case[0], scope="module")
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[NativeTarget, NativeTarget]:
    """A model that runs its layers in an order, and one whose file holds them as often as they run."""
    family, order, quantize = request.param
    folder = tmp_path_factory.mktemp("models")
    short = write_hf(folder / "short", family, num_hidden_layers=max(order) + 1).state_dict()
    long = make_model(family, num_hidden_layers=len(order))
    for name, tensor in long.state_dict().items():
        tensor.copy_(short[re.sub(r"layers\.(\d+)", lambda m: f"layers.{order[int(m[1])]}", name)])
    long.save_pretrained(folder / "long")
    write_tokenizer(folder / "long")
    repeated = open_target(folder / "long", folder / "cache", quantize=quantize, threads=2)
    short_weights = open_target(folder / "short", folder / "cache", quantize=quantize).weights
    ordered = NativeTarget(replace(repeated.config, layer_order=order), short_weights, threads=2)
    return ordered, repeated


def logits_of(target: NativeTarget) -> list[np.ndarray]:
    """Rows, forks, kept paths and parts of the model."""
    rng = np.random.default_rng(8)
    rows, _ = opened(target, PROMPTS)
    found = []
    for step in range(3):
        trees = [TokenTree(rng.permutation(9).tolist(), [-1, 0, 0, 1, 1, 2, 3, 6, 7]) for _ in rows]
        part = target.run(on(rows, trees), layers=step + 1, skip=[2 * step])
        found += [part.logits(row, range(9)) for row in range(len(rows))]
        scores = target.score(on(rows, trees))
        found += [scores.logits(row, range(9)) for row in range(len(rows))]
        target.keep(rows, [[1, 3, 6] if row % 2 else [2] for row in range(len(rows))])
        rows.append(target.fork(rows[step]))
    target.free(rows)
    return found


def test_an_order_has_the_bits_of_a_file_that_repeats_the_layers(
    both: tuple[NativeTarget, NativeTarget],
) -> None:
    ordered, repeated = both
    assert ordered.num_layers == repeated.num_layers == len(ordered.config.layer_order)
    assert len(ordered.weights.tensors) < len(repeated.weights.tensors)
    for ours, theirs in zip(*map(logits_of, both), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_drafts_change_no_token(both: tuple[NativeTarget, NativeTarget]) -> None:
    ordered, repeated = both

    def tokens(target: NativeTarget, drafter: Drafter, sampling: Sampling) -> list[int]:
        request = Request(PROMPTS[0], sampling, 40)
        made: list[int] = whole(generate(target, drafter, Match(), request))[1].token_ids
        return made

    for sampling in (Sampling(), Sampling(temperature=1.0, seed=3)):
        plain = tokens(repeated, NoDraft(), sampling)
        for drafter in (NoDraft(), NGram(), LayerSkip(target=ordered, skip="1")):
            assert tokens(ordered, drafter, sampling) == plain


def test_another_order_is_another_model(both: tuple[NativeTarget, NativeTarget]) -> None:
    ordered, _ = both
    config = ordered.config
    other = NativeTarget(replace(config, layer_order=config.layer_order[::-1]), ordered.weights)
    names = {target.fingerprint() for target in (*both, other)}
    assert len(names) == 3
    assert not np.array_equal(logits_of(ordered)[0], logits_of(other)[0])


@pytest.mark.parametrize("last", [(), (6,), (-1,), (0, 0)])
def test_impossible_orders_are_refused(
    both: tuple[NativeTarget, NativeTarget], last: tuple[int, ...]
) -> None:
    config = both[0].config
    with pytest.raises(FormatError, match="layer_order needs the number of a layer"):
        replace(config, layer_order=config.layer_order[:-1] + last)


def test_weights_that_an_order_names_have_to_be_there(both: tuple[NativeTarget, NativeTarget]) -> None:
    ordered, _ = both
    order = tuple(range(ordered.num_layers))
    with pytest.raises(OutpaceError, match=r"lacks the tensor layers\.\d+\.q"):
        NativeTarget(replace(ordered.config, layer_order=order), ordered.weights)
