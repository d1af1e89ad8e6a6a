"""Training of exit adapters: the loss by hand, the bare exit at first, texts by heart, equal bits again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.drafters.model.early_exit import early_exit  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import events, result_of  # noqa: E402
from outpace.engine.request import Request  # noqa: E402
from outpace.heads.exit_adapter import AdapterConfig, AdapterWeights, read_adapter  # noqa: E402
from outpace.heads.markov_heads import scaled  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.train import early_exit as training  # noqa: E402
from outpace.train.early_exit import Adapter, adapter_loss, train_early_exit  # noqa: E402
from outpace.train.features import FeatureFile, add_texts  # noqa: E402
from outpace.train.jobs_early_exit import last_norm  # noqa: E402
from outpace.train.loop import Plan  # noqa: E402
from outpace.train.texts import Texts  # noqa: E402
from outpace.trees.chain import Chain  # noqa: E402
from tests import exit_adapters  # noqa: E402
from tests.exit_adapters import adapted, adapter_config, random_adapter  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

PROMPTS = [[n, 2 * n + 1, 90 - n][: 2 + n % 2] for n in range(3, 11)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", context_length=64, kv="f32")
    target.tap("0")
    return target


@pytest.fixture(scope="module")
def answers(target: Any) -> list[list[int]]:
    requests = [Request(prompt, Sampling(), 24) for prompt in PROMPTS]
    return [one.token_ids for one in result_of(events(target, NoDraft(), Match(), requests))]


@pytest.fixture(scope="module")
def texts(target: Any, answers: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> Texts:
    """States of whole texts, from their second token on."""
    file = FeatureFile(tmp_path_factory.mktemp("states"), 2 * target.hidden_size)
    pairs = zip(PROMPTS, answers, strict=True)
    add_texts(file, target, [([*prompt, *answer], 1) for prompt, answer in pairs], taps=("0", "final"))
    return Texts(file.read(), np.array([len(prompt) - 1 for prompt in PROMPTS]))


def drafted_ids(answers: list[list[int]]) -> np.ndarray:
    return np.unique(np.concatenate(answers)).astype(np.int32)


def loaded(config: AdapterConfig, target: Any) -> Adapter:
    """Random weights in torch, with the target's norm."""
    adapter = Adapter(config, torch.from_numpy(exit_adapters.last_norm(target).copy()))
    tensors = random_adapter(config).tensors
    for name, value in adapter.state_dict().items():
        if name != "exit_norm.weight":
            value.copy_(torch.from_numpy(tensors[name]))
    return adapter


def by_hand(adapter: Adapter, states: np.ndarray) -> np.ndarray:
    """f64[n, D]: y of the states of a text that training has kept."""
    z = states.astype(np.float64)
    z /= np.sqrt((z**2).mean(1, keepdims=True) + adapter.config.rms_eps)
    tensors = adapter.tensors()
    weights = AdapterWeights(adapter.config, tensors, None)
    return adapted(weights, z * tensors["exit_norm.weight"])


def test_the_last_norm_is_told_by_states(target: Any, answers: list[list[int]]) -> None:
    found = last_norm(target, answers[0])
    np.testing.assert_allclose(found, exit_adapters.last_norm(target), rtol=1e-2)


def test_the_loss_is_that_of_the_answers_laws(target: Any, answers: list[list[int]], texts: Texts) -> None:
    """By hand: which tokens count, what the model says there of the drafted tokens, and what the adapter."""
    ids = drafted_ids(answers)[1:]
    adapter = loaded(adapter_config(target), target)
    output = target.output_rows(ids).astype(np.float64)
    with torch.no_grad():
        loss = adapter_loss(adapter, texts, range(len(PROMPTS)), torch.from_numpy(target.output_rows(ids)))
    parts, wide = [], target.hidden_size
    for number, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        start = 0 if number == 0 else int(texts.features.ends[number - 1])
        count = len(prompt) + len(answer) - 1
        states = np.array(texts.features.states[start : start + count], np.float64)
        y = by_hand(adapter, states[:, :wide])
        for at in range(len(prompt) - 1, count):
            said, ours = output @ states[at, wide:], output @ y[at]
            law = np.exp(said - said.max()) / np.exp(said - said.max()).sum()
            parts.append(law @ (np.log(np.exp(ours - ours.max()).sum()) + ours.max() - ours))
    assert loss.num_tokens == len(parts) == sum(map(len, answers))
    np.testing.assert_allclose(float(loss.value), np.mean(parts), rtol=1e-3)


def test_it_begins_as_the_bare_exit(target: Any, texts: Texts) -> None:
    adapter = Adapter(adapter_config(target), torch.from_numpy(exit_adapters.last_norm(target).copy()))
    states = torch.from_numpy(np.array(texts.features.states[:9, : target.hidden_size], np.float32))
    with torch.no_grad():
        found = adapter(states[None])[0].numpy()
    wanted = scaled(states.numpy()) * exit_adapters.last_norm(target)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert not adapter.exit_norm.weight.requires_grad


def test_it_learns_texts_by_heart_and_drafts_them(
    target: Any, answers: list[list[int]], texts: Texts, tmp_path: Path
) -> None:
    ids, config = drafted_ids(answers), adapter_config(target)
    norm, lengths = last_norm(target, answers[0]), []
    for steps in (1, 60):
        folder = tmp_path / str(steps)
        plan = Plan(steps=steps, lr=2e-2)
        train_early_exit(target, texts, folder, config, norm, ids, batch=120, plan=plan)
        drafter = early_exit(target, path=str(folder), tree=Chain(length=4))
        requests = [Request(prompt, Sampling(), 24) for prompt in PROMPTS]
        results = result_of(events(target, drafter, Match(), requests))
        assert [one.token_ids for one in results] == answers
        lengths.append(np.mean([one.stats.mean_accepted_length for one in results]))
    assert lengths[0] + 1 < lengths[1] > 3, lengths


def test_a_run_that_was_stopped_gives_the_same_bits(
    target: Any, answers: list[list[int]], texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, plan = adapter_config(target), Plan(steps=6, lr=1e-3, checkpoint_s=0)
    norm = last_norm(target, answers[0])

    def run(folder: Path, batch: int = 40) -> None:
        train_early_exit(target, texts, folder, config, norm, None, batch=batch, plan=plan)

    run(tmp_path / "whole")
    real, steps = training.adapter_loss, []

    def stopped(*args: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "adapter_loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    run(tmp_path / "parts")
    assert len(steps) == 4 + 3
    whole, parts = (read_adapter(tmp_path / name) for name in ("whole", "parts"))
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(parts.tensors[name], tensor)
    assert np.abs(whole.tensors["self_attn.o_proj.weight"]).max() > 0
    run(tmp_path / "parts")
    assert len(steps) == 7  # it is done
    with pytest.raises(OutpaceError, match="holds a run with batch=40"):
        run(tmp_path / "whole", batch=41)


def test_states_of_other_taps_are_refused(
    target: Any, answers: list[list[int]], texts: Texts, tmp_path: Path
) -> None:
    config = adapter_config(target, hidden_size=32)
    with pytest.raises(OutpaceError, match="the states are 128 wide, accepted are 64"):
        train_early_exit(target, texts, tmp_path, config, np.ones(32, np.float32), None, plan=Plan(steps=1))
