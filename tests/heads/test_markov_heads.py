"""Folders of Markov heads: what is written is read, every fault is named, the layers are numpy's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import FormatError, OutpaceError  # noqa: E402
from outpace.heads.folder import CONFIG, WEIGHTS  # noqa: E402
from outpace.heads.markov_heads import MarkovConfig, MarkovWeights, read_markov, scaled, write_markov  # noqa: E402
from outpace.heads.markov_pass import MarkovPass  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.table import TableTarget  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.made_heads import markov_logits, random_tensors, with_config, write_random_markov  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

CONFIGS = [
    MarkovConfig(1, 6, ("final",), 4, 2, 3, "sha256:x", "a model"),
    MarkovConfig(3, 5, ("1", "final"), 1, 4, 2, "sha256:y"),
]


def made(config: MarkovConfig) -> MarkovWeights:
    ids = np.arange(2, 2 + config.num_tokens, dtype=np.int32)
    return MarkovWeights(config, random_tensors(config.shapes(), 3), ids)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_was_written_is_read(tmp_path: Path, config: MarkovConfig) -> None:
    block = made(config)
    write_markov(tmp_path / "a" / "b", block)
    found = read_markov(tmp_path / "a" / "b")
    assert found.config == config and found.tensors.keys() == block.tensors.keys()
    np.testing.assert_array_equal(found.token_ids, block.token_ids)
    for name, tensor in block.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


def with_ids(ids: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        block = read_markov(folder)
        object.__setattr__(block, "token_ids", np.array(ids, np.int32))
        write_markov(folder, block)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / CONFIG).unlink(), r"cannot read .*config\.json"),
        (with_config(method="blockwise"), "heads of the method 'blockwise', accepted is 'markov_heads'"),
        (with_config(version=9), "version 9, accepted is 1"),
        (with_config(length=0), "length is 0, accepted are whole numbers from 1 to 64"),
        (with_config(length=65), "length is 65, accepted are whole numbers from 1 to 64"),
        (with_config(rank=0), "rank is 0, accepted are whole numbers >= 1"),
        (with_config(width=1.0), r"width is 1\.0"),
        (with_config(taps="final"), "taps is 'final', expected one or more names of taps"),
        (with_config(taps=[]), r"taps is \[\], expected"),
        (with_config(taps=[3]), r"taps is \[3\], expected"),
        (with_config(target=...), "target is None, expected the fingerprint"),
        (with_config(hidden_size=7), r"trunk\.weight is F16\[1, 15\], expected floats \[1, 21\]"),
        (with_config(taps=["final"]), r"trunk\.weight is F16\[1, 15\], expected floats \[1, 10\]"),
        (with_config(num_tokens=3), "token_ids is of 2 tokens, expected 3"),
        (with_ids([3, 2]), "token_ids are not ascending"),
        (with_ids([-1, 2]), "token_ids are not ascending"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"has no weights: expected model\.safetensors"),
    ],
)
def test_every_fault_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_markov(tmp_path, made(CONFIGS[1]))
    damage(tmp_path)
    with pytest.raises(FormatError, match=message) as raised:
        read_markov(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_tensors_of_other_shapes_are_none(tmp_path: Path) -> None:
    block = made(CONFIGS[0])
    with pytest.raises(AssertionError, match="tensors of shapes"):
        MarkovWeights(replace(block.config, width=5), block.tensors, block.token_ids)
    with pytest.raises(AssertionError, match="an id for every drafted token"):
        MarkovWeights(block.config, block.tensors, block.token_ids[1:])


def test_states_are_scaled_to_a_mean_square_of_one() -> None:
    states = np.random.default_rng(0).normal(scale=30, size=(4, 3, 50))
    np.testing.assert_allclose((scaled(states) ** 2).mean(axis=-1), 1.0, rtol=1e-5)
    assert not scaled(np.zeros((1, 5))).any()


def hf_causal(folder: Path) -> Any:
    return HfCausalTarget(tiny_model("gpt2", num_hidden_layers=1), context_length=64)


def native_f32(folder: Path) -> Any:
    return gguf_target(folder, "llama", "F32", context_length=64)


@pytest.mark.parametrize(("factory", "near"), [(hf_causal, 0.05), (native_f32, 1e-3)])
def test_logits_are_those_of_numpy(factory: Callable[[Path], Any], near: float, tmp_path: Path) -> None:
    """Position by position, along paths of drafted tokens and of others; a root may be any token."""
    target = factory(tmp_path)
    block = write_random_markov(tmp_path / "b", target, length=4, token_ids=[3, 4, 8, 9, 20, 77, 150, 299])
    drafter = MarkovPass(target, tmp_path / "b")
    states = np.random.default_rng(1).normal(size=(2, 2, target.hidden_size)).astype(np.float32)
    output = target.output_rows()
    paths = [[5, 9, 20, 3], [299, 4, 4, 8], [299], [4], [4, 9]]
    for row in range(2):
        for path in paths:
            made = drafter(states[[row, 1 - row]], [path[0], 7])[0]
            order = None
            for token in path:
                order = drafter.follow(order, token)
            assert order is not None
            expected = markov_logits(block, states[row], output, path)
            found = made.law(len(path) - 1, order)
            assert np.abs(found - expected).max() < near * np.abs(expected).max()
            whole = drafter.whole(found[None])[0]
            np.testing.assert_array_equal(whole[block.token_ids], found)
            assert np.isneginf(np.delete(whole, block.token_ids)).all()
    # What the paths have to do with it: another token before, other logits.
    other = drafter(states[:1], [5])[0]
    behind = [drafter.follow(drafter.follow(None, 5), token) for token in (9, 20)]
    assert np.abs(other.law(1, behind[0]) - other.law(1, behind[1])).max() > 0.1


@pytest.mark.parametrize("near", [0.5, 99.0])
def test_the_likely_ones_are_the_best_without_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near: float
) -> None:
    monkeypatch.setattr("outpace.heads.markov_pass.CANDIDATES", 5)
    monkeypatch.setattr("outpace.heads.markov_pass.NEAR", near)
    target = hf_causal(tmp_path)
    write_random_markov(tmp_path / "b", target, token_ids=range(40))
    drafter = MarkovPass(target, tmp_path / "b")
    [made] = drafter(np.ones((1, 2, target.hidden_size), np.float32), [5])
    for position in (0, 2, 0):
        order = drafter.follow(None, 5 + position)
        some, logits = made.likely(position, order)
        base = made.logits[position]
        best = [at for at in np.argsort(-base)[:5].tolist() if base[at] > base.max() - near]
        assert set(some.tolist()) == set(best) and 0 < len(best) == (5 if near > 1 else len(best))
        law = made.law(position, order)[some]  # rounded to 8 bit
        np.testing.assert_allclose(logits, law, atol=0.02 * np.abs(law).max())


def test_drafters_of_other_models_are_refused(tmp_path: Path) -> None:
    target = hf_causal(tmp_path)
    block = write_random_markov(tmp_path / "b", target)
    others = [
        (replace(block.config, target="sha256:z"), "were trained on another model (a tiny model)"),
        (replace(block.config, taps=("7", "final")), "unknown tap '7', accepted are 0 to 0 and final"),
    ]
    for config, message in others:
        write_markov(tmp_path / "o", MarkovWeights(config, block.tensors, block.token_ids))
        with pytest.raises(OutpaceError) as raised:
            MarkovPass(target, tmp_path / "o")
        assert message in str(raised.value)
    write_random_markov(tmp_path / "far", target, token_ids=[0, target.vocab_size])
    with pytest.raises(OutpaceError, match=f"draft the token {target.vocab_size}, accepted are those of"):
        MarkovPass(target, tmp_path / "far")
    with pytest.raises(OutpaceError, match="the target TableTarget shows none"):
        MarkovPass(TableTarget.random(vocab_size=8, order=1, seed=0, context_length=9), tmp_path / "b")
