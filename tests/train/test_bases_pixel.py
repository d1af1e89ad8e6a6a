"""The pixel model as training sees it: its states are those of the engine, one place after another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from outpace.core.tree import TokenTree
from outpace.heads.file import read_heads
from outpace.targets.pixel import PixelTarget, pixel_prompt
from outpace.targets.pixel_model import START, PixelModel
from outpace.train.bases_pixel import PixelBase, lines
from outpace.train.blockwise import MODEL_FOLDER, train_blockwise
from outpace.train.loop import Plan
from tests.pixel_models import small_pictures, tiny_pixel_model
from tests.rows import on, opened

SHAPES: list[dict[str, int]] = [{}, {"channels": 3, "window": 40}]


def batch_of(model: PixelModel, count: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    labels = np.random.default_rng(seed).integers(0, 256, (count, model.config.num_intensities))
    return {
        "small": torch.from_numpy(small_pictures(model, count, seed=seed)),
        "labels": torch.from_numpy(labels),
    }


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_states_are_the_engines(changes: dict[str, int]) -> None:
    model = tiny_pixel_model(**changes)
    batch = batch_of(model, 2)
    size = model.config.num_intensities
    with torch.no_grad():
        states, ahead = PixelBase(model).states(batch, 3)
    assert states.shape == (2 * size, model.config.hidden_size) and ahead.shape == (2 * size, 3)
    target = PixelTarget(model)
    target.tap("final")
    for number, line in enumerate(batch["labels"].tolist()):
        (row,), first = opened(target, [pixel_prompt(batch["small"][number].numpy())])
        mine = states[number * size : (number + 1) * size].numpy()
        np.testing.assert_allclose(mine[:1], first.hidden("final"), rtol=1e-4, atol=1e-5)
        # Every intensity but the last has a state after it; they are scored in one call.
        chain = TokenTree(line[:-1], list(range(-1, size - 2)))
        np.testing.assert_allclose(
            mine[1:], target.score(on([row], [chain])).hidden("final"), rtol=1e-3, atol=1e-4
        )
        target.free([row])


def test_what_comes_ahead_is_the_next_intensities() -> None:
    model = tiny_pixel_model()
    batch = batch_of(model, 2)
    _, ahead = PixelBase(model).states(batch, 4)
    for number, line in enumerate(batch["labels"].tolist()):
        for place in range(len(line)):
            wanted = (line[place : place + 4] + [-100] * 4)[:4]
            assert ahead[number * len(line) + place].tolist() == wanted


def test_a_batch_may_say_what_is_read_in_place_of_its_labels() -> None:
    model = tiny_pixel_model()
    batch = batch_of(model, 2)
    other = batch_of(model, 2, seed=1)["labels"]
    with torch.no_grad():
        states, ahead = PixelBase(model).states({**batch, "read": other}, 2)
        expected, _ = PixelBase(model).states({**batch, "labels": other}, 2)
    assert torch.equal(states, expected)
    assert torch.equal(ahead, PixelBase(model).states(batch, 2)[1])


def test_lines_begin_with_start() -> None:
    assert lines(torch.tensor([[1, 2, 3], [4, 5, 6]])).tolist() == [[START, 1, 2], [START, 4, 5]]


@pytest.mark.parametrize("some", [None, np.array([0, 3, 255])], ids=["all", "some"])
def test_unembedding_is_the_models(some: np.ndarray | None) -> None:
    model = tiny_pixel_model()
    batch = batch_of(model, 1)
    base = PixelBase(model)
    with torch.no_grad():
        states, _ = base.states(batch, 1)
        logits = base.unembedding(some)(states).numpy()
        expected = model(lines(batch["labels"]), batch["small"])[0].numpy()
    np.testing.assert_allclose(logits, expected if some is None else expected[:, some], rtol=1e-5, atol=1e-5)
    _, scores = opened(PixelTarget(model), [pixel_prompt(batch["small"][0].numpy())])
    np.testing.assert_allclose(expected[0], scores.logits(0, [0])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("regime", ["frozen", "finetuned"])
def test_trained_heads_fit_the_model_that_is_used(tmp_path: Path, regime: str) -> None:
    model = tiny_pixel_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_blockwise(
        PixelBase(model),
        lambda step: batch_of(model, 2, seed=step),
        tmp_path,
        num_heads=3,
        regime=regime,  # type: ignore[arg-type]
        plan=Plan(4, lr=0.01),
        token_ids=np.arange(256),
    )
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(changed) == (regime == "finetuned")
    used = PixelModel.open(tmp_path / MODEL_FOLDER) if regime == "finetuned" else model
    heads = read_heads(tmp_path)
    assert heads.config.target == PixelTarget(used).fingerprint()
    assert heads.token_ids is not None and heads.token_ids.tolist() == list(range(256))
    assert any(np.abs(tensor).max() > 0 for name, tensor in heads.tensors.items() if "output" in name)
    for name, value in used.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
