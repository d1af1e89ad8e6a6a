"""Training of Hydra heads: the loss against plain arithmetic, how it begins, what is learnt, resumption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.drafters.heads.hydra import Hydra  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads.folder import WEIGHTS  # noqa: E402
from outpace.heads.hydra import HydraConfig, HydraWeights, read_hydra  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.train.checkpoint import RUN, STATE  # noqa: E402
from outpace.train.features import FeatureFile, Features, add_answers  # noqa: E402
from outpace.train.hydra import HydraData, HydraLayers, train_hydra  # noqa: E402
from outpace.train.loop import Plan  # noqa: E402
from outpace.train.medusa import train_medusa  # noqa: E402
from outpace.train.segments import SEGMENT, Segments, half_and_half  # noqa: E402
from tests.fakes import whole  # noqa: E402
from tests.made_heads import hydra_config, hydra_logits, random_tensors  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

PROMPTS = [[n, 2 * n + 1, 90 - n] for n in range(3, 15)]
LENGTH = 24


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = gguf_target(tmp_path_factory.mktemp("model"), "llama", "F32", context_length=64)
    target.tap("final")
    return target


def run(target: Any, drafter: Any, prompt: list[int], sampling: Sampling | None = None) -> Generation:
    request = Request(prompt, sampling or Sampling(), LENGTH)
    result: Generation = whole(generate(target, drafter, Match(), request))[1]
    return result


@pytest.fixture(scope="module")
def features(target: Any, tmp_path_factory: pytest.TempPathFactory) -> Features:
    """The model's own texts."""
    file = FeatureFile(tmp_path_factory.mktemp("states"), target.hidden_size)
    texts = [(prompt, run(target, NoDraft(), prompt).token_ids) for prompt in PROMPTS]
    add_answers(file, target, texts)
    return file.read()


def trained(target: Any, features: Features, folder: Path, **options: Any) -> HydraConfig:
    fields: dict[str, Any] = {
        "token_ids": np.unique(features.tokens), "num_heads": 3, "batch": 4 * SEGMENT,
        "plan": Plan(60, lr=1e-2), "name": "tiny", "data": "own",
    } | options  # fmt: skip
    return train_hydra(target, features, folder, **fields)


@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_is_that_of_plain_arithmetic(
    target: Any, features: Features, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of texts that end within a segment, with tokens that are not drafted; head h weighs 0.8^h."""
    ids = np.unique(features.tokens)[2:].astype(np.int32)
    config = hydra_config(target, num_tokens=len(ids), shared_output=shared)
    heads = HydraWeights(config, random_tensors(config.shapes(), 5), ids)
    output, starts = target.output_rows(), np.array([1, 37])
    data = HydraData(target, features, ids, 3, segments=2)
    layers = HydraLayers(config, data.output)
    layers.load_state_dict({name: torch.from_numpy(value) for name, value in heads.tensors.items()})
    monkeypatch.setattr(Segments, "starts", lambda self, seed, step: starts)
    states, tokens, ahead = data.batch(0, 0)
    assert states.shape == (2 * SEGMENT, 64) and tokens.shape == (2 * SEGMENT, 3, 64)
    found = half_and_half(layers(states, tokens), ahead, data.output)

    embeddings = target.input_rows(np.arange(target.vocab_size))
    total, weight, count = 0.0, 0.0, 0
    for start in starts:
        for root in range(start, start + SEGMENT):
            end = min(int(end) for end in features.ends if end > root)
            state = features.states[root].astype(np.float32)
            for head in range(3):
                token = root + head + 1
                if token >= end or not np.isin(features.tokens[root + 1 : token + 1], ids).all():
                    break
                said = hydra_logits(heads, state, embeddings, output, features.tokens[root:token].tolist())
                law = output[ids].astype(np.float64) @ features.states[token].astype(np.float64)
                log_p = said - said.max() - np.log(np.exp(said - said.max()).sum())
                law = np.exp(law - law.max())
                label = ids.tolist().index(int(features.tokens[token]))
                one = -(log_p[label] + (law / law.sum() * log_p).sum()) / 2
                total, weight = total + 0.8 ** (head + 1) * one, weight + 0.8 ** (head + 1)
                count += 1
    assert found.num_tokens == count and 100 < count < 2 * SEGMENT * 3
    assert float(found.value.detach()) == pytest.approx(total / weight, rel=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_a_head_begins_as_the_model_itself(target: Any, shared: bool) -> None:
    ids = np.arange(5, 20)
    config = hydra_config(target, num_tokens=15, shared_output=shared)
    output = torch.from_numpy(target.output_rows(ids))
    layers = HydraLayers(config, output)
    states, tokens = torch.randn(4, target.hidden_size), torch.randn(4, 3, target.hidden_size)
    logits = layers(states, tokens)
    assert logits.shape == (4, 3, 15)
    torch.testing.assert_close(logits, (states @ output.T)[:, None].expand(4, 3, 15))
    logits.square().sum().backward()
    for name, parameter in layers.named_parameters():
        assert parameter.grad is not None
        # A layer of zeros is no dead end, and output matrices are one each.
        assert float(parameter.grad.abs().max()) > 0, name
    assert output.grad is None
    assert {name: tuple(value.shape) for name, value in layers.tensors().items()} == config.shapes()


@pytest.mark.parametrize("outputs", ["shared", "own"])
def test_trained_heads_draft_what_the_model_says(
    target: Any, features: Features, tmp_path: Path, outputs: Any
) -> None:
    options: dict[str, Any] = {"outputs": outputs, "num_layers": 2 if outputs == "shared" else 1}
    config = trained(target, features, tmp_path / "b", plan=Plan(150, lr=1e-2), **options)
    found = read_hydra(tmp_path / "b")
    assert config == found.config and config.shared_output == (outputs == "shared")
    assert found.token_ids is not None and found.token_ids.tolist() == np.unique(features.tokens).tolist()
    assert not (tmp_path / "b" / STATE).exists()
    trained(target, features, tmp_path / "short", plan=Plan(1), **options)
    lengths = {}
    for name in ("b", "short"):
        drafter = Hydra(target, path=str(tmp_path / name))
        texts = [run(target, drafter, prompt) for prompt in PROMPTS]
        assert [one.token_ids for one in texts] == [run(target, NoDraft(), p).token_ids for p in PROMPTS]
        lengths[name] = np.mean([one.stats.mean_accepted_length for one in texts])
    assert lengths["b"] > 2.0 and lengths["b"] > lengths["short"] + 0.3, lengths


def test_it_learns_what_heads_cannot_that_know_no_tokens(target: Any, tmp_path: Path) -> None:
    """Of sampled text, a state does not say which tokens will be drawn: those drawn say what follows them."""
    file = FeatureFile(tmp_path / "states", target.hidden_size)
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    samplings = [Sampling(temperature=1.5, top_k=20, seed=seed) for seed in range(len(prompts))]
    texts = [
        (prompt, run(target, NoDraft(), prompt, sampling).token_ids)
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]
    add_answers(file, target, texts)
    features = file.read()
    losses = {}
    for train in (train_hydra, train_medusa):
        options: dict[str, Any] = {"token_ids": np.unique(features.tokens), "num_heads": 2, "batch": 256}
        train(target, features, tmp_path / train.__name__, plan=Plan(100, lr=5e-3), **options)
        run_json = json.loads((tmp_path / train.__name__ / RUN).read_text())
        losses[train.__name__] = np.mean([loss for _, loss in run_json["losses"][-10:]])
    assert losses["train_hydra"] < losses["train_medusa"] - 0.3, losses


def test_all_tokens_need_no_list(target: Any, features: Features, tmp_path: Path) -> None:
    trained(target, features, tmp_path, plan=Plan(1), token_ids=np.arange(target.vocab_size))
    found = read_hydra(tmp_path)
    assert found.token_ids is None and found.config.num_tokens == found.config.vocab_size


@pytest.mark.parametrize("outputs", ["shared", "own"])
def test_an_interrupted_training_goes_on(
    target: Any, features: Features, tmp_path: Path, outputs: Any
) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, total: int, words: str) -> None:
        if done == 4:
            raise Killed

    options: dict[str, Any] = {"plan": Plan(7, lr=1e-2, checkpoint_s=0), "outputs": outputs}
    trained(target, features, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        trained(target, features, tmp_path / "parts", progress=kill, **options)
    assert (tmp_path / "parts" / STATE).exists()
    trained(target, features, tmp_path / "parts", **options)
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "parts" / WEIGHTS).read_bytes()
    before = (tmp_path / "parts" / WEIGHTS).stat().st_mtime_ns
    trained(target, features, tmp_path / "parts", **options)
    assert (tmp_path / "parts" / WEIGHTS).stat().st_mtime_ns == before, "there was nothing left to do"
    with pytest.raises(OutpaceError, match="holds a run with num_heads=3"):
        trained(target, features, tmp_path / "parts", num_heads=2, **options)
    with pytest.raises(OutpaceError, match=f"holds a run with shared_output={outputs == 'shared'}"):
        other = "own" if outputs == "shared" else "shared"
        trained(target, features, tmp_path / "parts", **options | {"outputs": other})
    written = json.loads((tmp_path / "parts" / RUN).read_text())
    assert written["finished"]["num_heads"] == 3 and written["settings"]["method"] == "hydra"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "hydra has num_heads=0, accepted are whole numbers from 1 to 64"),
        ({"num_layers": 17}, "hydra has num_layers=17, accepted are whole numbers from 1 to 16"),
        ({"batch": 65}, "hydra has batch=65, accepted are multiples of 64 up to 1048576"),
        ({"outputs": "none"}, "outputs is 'none', accepted are shared, own"),
        ({"precision": "float16"}, "precision is 'float16', accepted are float32, bfloat16"),
        ({"token_ids": [3, 3]}, "token_ids are not one or more ascending ids of 0 to"),
    ],
)
def test_bad_options(
    target: Any, features: Features, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OutpaceError, match=message):
        trained(target, features, tmp_path / "b", **options)
    assert not (tmp_path / "b").exists()


def test_bad_states(target: Any, features: Features, tmp_path: Path) -> None:
    twice = replace(features, states=np.concatenate([features.states] * 2, axis=1))
    with pytest.raises(OutpaceError, match="the states are 128 wide, accepted are those of 1 taps of 64"):
        trained(target, twice, tmp_path / "b")
    tokens = features.tokens.copy()
    tokens[3] = target.vocab_size
    with pytest.raises(OutpaceError, match="the texts have the token id"):
        trained(target, replace(features, tokens=tokens), tmp_path / "b", token_ids=[1, 2])
    assert not (tmp_path / "b").exists()
    broken = np.array(features.states)
    broken[:, 0] = np.nan
    with pytest.raises(OutpaceError, match=r"states\.f16 holds numbers that are none"):
        trained(target, replace(features, states=broken), tmp_path / "b")
