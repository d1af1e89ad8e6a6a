"""Training of Markov heads: the loss against plain arithmetic, batches, what is learnt, resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.drafters.heads.markov_heads import MarkovHeads  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads.folder import WEIGHTS  # noqa: E402
from outpace.heads.markov_heads import MarkovConfig, MarkovWeights, read_markov  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.train.checkpoint import RUN, STATE  # noqa: E402
from outpace.train.features import FeatureFile, Features, add_answers  # noqa: E402
from outpace.train.jobs_markov import thirds  # noqa: E402
from outpace.train.loop import Plan  # noqa: E402
from outpace.train.markov_heads import MarkovData, MarkovLayers, markov_loss, train_markov  # noqa: E402
from outpace.train.recording import kept_states  # noqa: E402
from outpace.train.segments import DECAY, SEGMENT, HalfAndHalf  # noqa: E402
from tests.fakes import whole  # noqa: E402
from tests.made_heads import markov_logits  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

TAPS = ("0", "final")
PROMPTS = [[n, 2 * n + 1, 90 - n] for n in range(3, 15)]
LENGTH = 24


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = gguf_target(tmp_path_factory.mktemp("model"), "llama", "F32", context_length=64)
    target.tap(*TAPS)
    return target


def run(target: Any, drafter: Any, prompt: list[int]) -> Generation:
    request = Request(prompt, Sampling(), LENGTH)
    result: Generation = whole(generate(target, drafter, Match(), request))[1]
    return result


@pytest.fixture(scope="module")
def features(target: Any, tmp_path_factory: pytest.TempPathFactory) -> Features:
    """The model's own texts."""
    file = FeatureFile(tmp_path_factory.mktemp("states"), 2 * target.hidden_size)
    texts = [(prompt, run(target, NoDraft(), prompt).token_ids) for prompt in PROMPTS]
    add_answers(file, target, texts, taps=TAPS)
    return file.read()


def drafted(features: Features, skipped: int = 0) -> np.ndarray:
    """The ids of the texts but for the first few of them."""
    return np.unique(features.tokens)[skipped:]


def trained(target: Any, features: Features, folder: Path, **options: Any) -> MarkovConfig:
    fields: dict[str, Any] = {
        "taps": TAPS, "token_ids": drafted(features), "length": 3, "width": 32, "rank": 8, "segments": 4,
        "plan": Plan(60, lr=1e-2), "name": "tiny", "data": "own",
    } | options  # fmt: skip
    return train_markov(target, features, folder, **fields)


def config_for(target: Any, ids: np.ndarray) -> MarkovConfig:
    return MarkovConfig(3, target.hidden_size, TAPS, 5, 4, len(ids), "sha256:x")


def test_the_loss_is_that_of_plain_arithmetic(target: Any, features: Features) -> None:
    """Of texts that end within a segment, with tokens that are not drafted."""
    ids = drafted(features, 2)
    config = config_for(target, ids)
    torch.manual_seed(0)
    layers, output = MarkovLayers(config), target.output_rows()
    with torch.no_grad():
        layers.order.weight.normal_(std=0.3)  # zero in the beginning
    data = MarkovData(features, config, ids, output, segments=2)
    starts = np.array([1, 37])
    found = markov_loss(layers, data.batch(starts), data.output)
    block = MarkovWeights(config, layers.tensors(), ids.astype(np.int32))
    total = weight = 0.0
    count, width = 0, target.hidden_size
    for start in starts:
        for root in range(start, start + SEGMENT):
            end = min(int(end) for end in features.ends if end > root)
            for at in range(3):
                path, token = features.tokens[root : root + at + 1].tolist(), root + at + 1
                if token >= end or not np.isin(features.tokens[root + 1 : token + 1], ids).all():
                    break
                states = features.states[root].astype(np.float32).reshape(2, width)
                said = markov_logits(block, states, output, path)
                law = output[ids].astype(np.float64) @ features.states[token, width:].astype(np.float64)
                log_p = said - np.log(np.exp(said).sum())
                law = np.exp(law - law.max())
                label = ids.tolist().index(int(features.tokens[token]))
                one = -(log_p[label] + (law / law.sum() * log_p).sum()) / 2
                total, weight, count = total + DECAY**at * one, weight + DECAY**at, count + 1
    assert found.num_tokens == count and 100 < count < 2 * SEGMENT * 3
    assert float(found.value.detach()) == pytest.approx(total / weight, rel=1e-4)


def test_gradients_are_those_of_autograd() -> None:
    logits = torch.randn(5, 3, 7, dtype=torch.float32, requires_grad=True)
    laws, labels = torch.randn(5, 3, 7).softmax(-1), torch.randint(0, 7, (5, 3))
    weights = torch.rand(5, 3) * (torch.rand(5, 3) > 0.3)
    log_p = logits.log_softmax(-1)
    said = log_p.gather(-1, labels[..., None])[..., 0]
    expected = -((said + (laws * log_p).sum(-1)) / 2 * weights).sum()
    (wanted,) = torch.autograd.grad(expected * 3, logits)
    found = HalfAndHalf.apply(logits, laws, labels, weights)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    (gradient,) = torch.autograd.grad(found * 3, logits)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_states_that_are_none_are_named(target: Any, features: Features) -> None:
    ids = drafted(features)
    states = np.array(features.states)
    states[7, 3] = np.inf
    broken = Features(states, features.tokens, features.ends)
    data = MarkovData(broken, config_for(target, ids), ids, target.output_rows(), segments=1)
    with pytest.raises(OutpaceError, match=r"states\.f16 holds numbers that are none"):
        data.batch(np.array([0]))
    data.batch(np.array([8]))


def test_states_of_layers_are_of_one_size_however_large(target: Any, features: Features) -> None:
    """What f16 cannot hold is no reason to stop; "final" is what the laws are made of, and stays."""
    large = {"0": np.full((2, 4), 3e5), "final": np.full((2, 4), 30.0)}
    kept = kept_states(("0", "final"), lambda tap: large[tap].astype(np.float32))
    assert kept.dtype == np.float16 and kept.tolist() == [[1.0] * 4 + [30.0] * 4] * 2
    layer = features.states[:, : target.hidden_size].astype(np.float64)
    np.testing.assert_allclose((layer**2).mean(axis=1), 1.0, rtol=2e-3)


def test_batches_are_drawn_by_seed_and_step(target: Any, features: Features) -> None:
    ids = drafted(features)
    data = MarkovData(features, config_for(target, ids), ids, target.output_rows(), segments=9)
    assert data.starts(1, 2).tolist() == data.starts(1, 2).tolist() != data.starts(1, 3).tolist()
    assert (data.starts(1, 2) != data.starts(2, 2)).any()
    last = len(features.tokens) - 1
    batch = data.batch(np.array([last]))
    assert not batch.ahead.known.any(), "nothing follows the last token"


def test_trained_heads_draft_what_the_model_says(target: Any, features: Features, tmp_path: Path) -> None:
    config = trained(target, features, tmp_path / "b", plan=Plan(150, lr=1e-2))
    assert config == read_markov(tmp_path / "b").config
    assert not (tmp_path / "b" / STATE).exists()
    trained(target, features, tmp_path / "short", plan=Plan(1))
    lengths = {}
    for name in ("b", "short"):
        drafter = MarkovHeads(target, path=str(tmp_path / name))
        found = [run(target, drafter, prompt) for prompt in PROMPTS]
        assert [one.token_ids for one in found] == [run(target, NoDraft(), p).token_ids for p in PROMPTS]
        lengths[name] = np.mean([one.stats.mean_accepted_length for one in found])
    assert lengths["b"] > 2.0 > lengths["short"], lengths


def test_an_interrupted_training_goes_on(target: Any, features: Features, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, total: int, words: str) -> None:
        if done == 4:
            raise Killed

    plan = Plan(7, lr=1e-2, checkpoint_s=0)
    trained(target, features, tmp_path / "whole", plan=plan)
    with pytest.raises(Killed):
        trained(target, features, tmp_path / "parts", plan=plan, progress=kill)
    assert (tmp_path / "parts" / STATE).exists()
    trained(target, features, tmp_path / "parts", plan=plan)
    whole, parts = (read_markov(tmp_path / name) for name in ("whole", "parts"))
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(tensor, parts.tensors[name])
    before = (tmp_path / "parts" / WEIGHTS).stat().st_mtime_ns
    trained(target, features, tmp_path / "parts", plan=plan)
    assert (tmp_path / "parts" / WEIGHTS).stat().st_mtime_ns == before, "there was nothing left to do"
    with pytest.raises(OutpaceError, match="holds a run with rank=8"):
        trained(target, features, tmp_path / "parts", plan=plan, rank=9)
    assert json.loads((tmp_path / "parts" / RUN).read_text())["finished"]["rank"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "markov_heads has length=0, accepted are whole numbers from 1 to 64"),
        ({"length": 65}, "markov_heads has length=65, accepted are whole numbers from 1 to 64"),
        ({"width": 2.0}, r"markov_heads has width=2\.0"),
        ({"rank": True}, "markov_heads has rank=True"),
        ({"segments": -1}, "markov_heads has segments=-1"),
        ({"precision": "float16"}, "precision is 'float16', accepted are float32, bfloat16"),
        ({"taps": ("0",)}, "markov_heads has taps 0; accepted are different ones, final among them"),
        ({"taps": ("final", "final")}, "markov_heads has taps final, final"),
        ({"taps": ("final",)}, "the states are 128 wide, accepted are those of 1 taps of 64"),
        ({"token_ids": [3, 3]}, "token_ids are not one or more ascending ids of 0 to"),
        ({"token_ids": []}, "token_ids are not one or more"),
    ],
)
def test_bad_options(
    target: Any, features: Features, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OutpaceError, match=message):
        trained(target, features, tmp_path / "b", **options)
    assert not (tmp_path / "b").exists()


def test_thirds_of_the_layers() -> None:
    assert thirds(30) == ("9", "19", "final")
    assert thirds(3) == ("0", "1", "final")
    assert thirds(2) == ("0", "final")
    assert thirds(1) == ("final",)
