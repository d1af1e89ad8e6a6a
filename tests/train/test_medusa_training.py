"""Training of Medusa heads: the loss against plain arithmetic, how it begins, what is learnt, resumption."""

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
from outpace.drafters.heads.medusa import Medusa  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads.folder import WEIGHTS  # noqa: E402
from outpace.heads.medusa import MedusaConfig, MedusaWeights, read_medusa  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.train.checkpoint import RUN, STATE  # noqa: E402
from outpace.train.features import FeatureFile, Features, add_answers  # noqa: E402
from outpace.train.loop import Plan  # noqa: E402
from outpace.train.medusa import MedusaLayers, train_medusa  # noqa: E402
from outpace.train.segments import SEGMENT, Segments, half_and_half  # noqa: E402
from tests.fakes import whole  # noqa: E402
from tests.made_heads import medusa_config, medusa_states, random_tensors  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

PROMPTS = [[n, 2 * n + 1, 90 - n] for n in range(3, 15)]
LENGTH = 24


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = gguf_target(tmp_path_factory.mktemp("model"), "llama", "F32", context_length=64)
    target.tap("final")
    return target


def run(target: Any, drafter: Any, prompt: list[int]) -> Generation:
    request = Request(prompt, Sampling(), LENGTH)
    result: Generation = whole(generate(target, drafter, Match(), request))[1]
    return result


@pytest.fixture(scope="module")
def features(target: Any, tmp_path_factory: pytest.TempPathFactory) -> Features:
    """The model's own texts."""
    file = FeatureFile(tmp_path_factory.mktemp("states"), target.hidden_size)
    texts = [(prompt, run(target, NoDraft(), prompt).token_ids) for prompt in PROMPTS]
    add_answers(file, target, texts)
    return file.read()


def trained(target: Any, features: Features, folder: Path, **options: Any) -> MedusaConfig:
    fields: dict[str, Any] = {
        "token_ids": np.unique(features.tokens), "num_heads": 3, "batch": 4 * SEGMENT,
        "plan": Plan(60, lr=1e-2), "name": "tiny", "data": "own",
    } | options  # fmt: skip
    return train_medusa(target, features, folder, **fields)


@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_is_that_of_plain_arithmetic(target: Any, features: Features, shared: bool) -> None:
    """Of texts that end within a segment, with tokens that are not drafted; head h weighs 0.8^h."""
    ids = np.unique(features.tokens)[2:]
    config = medusa_config(target, truncated_vocab_size=len(ids), original_lm_head=shared)
    tensors = random_tensors(config.shapes(), 5)
    output = target.output_rows(ids)
    layers = MedusaLayers(config, torch.from_numpy(output))
    layers.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    starts = np.array([1, 37])
    texts = Segments(features, ids, target.vocab_size, length=3, segments=2)
    rows = texts.rows(starts)
    logits = layers(torch.from_numpy(rows.states[:, :SEGMENT].reshape(-1, target.hidden_size)))
    found = half_and_half(logits, rows.ahead(slice(None)), torch.from_numpy(output))

    heads, total, weight, count = MedusaWeights(config, tensors, ids.astype(np.int64)), 0.0, 0.0, 0
    for start in starts:
        for root in range(start, start + SEGMENT):
            end = min(int(end) for end in features.ends if end > root)
            ahead = medusa_states(heads, features.states[root : root + 1].astype(np.float32))[0]
            for head in range(3):
                token = root + head + 1
                if token >= end or not np.isin(features.tokens[root + 1 : token + 1], ids).all():
                    break
                own = output if shared else tensors[f"lm_heads.{head}.weight"]
                said = own.astype(np.float64) @ ahead[head]
                law = output.astype(np.float64) @ features.states[token].astype(np.float64)
                log_p = said - np.log(np.exp(said).sum())
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
    config = medusa_config(target, truncated_vocab_size=15, original_lm_head=shared)
    output = torch.from_numpy(target.output_rows(ids))
    layers = MedusaLayers(config, output)
    states = torch.randn(4, target.hidden_size)
    logits = layers(states)
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
    found = read_medusa(tmp_path / "b")
    assert config == found.config and config.original_lm_head == (outputs == "shared")
    assert found.token_ids is not None and found.token_ids.tolist() == np.unique(features.tokens).tolist()
    assert not (tmp_path / "b" / STATE).exists()
    trained(target, features, tmp_path / "short", plan=Plan(1), **options)
    lengths = {}
    for name in ("b", "short"):
        drafter = Medusa(target, path=str(tmp_path / name))
        texts = [run(target, drafter, prompt) for prompt in PROMPTS]
        assert [one.token_ids for one in texts] == [run(target, NoDraft(), p).token_ids for p in PROMPTS]
        lengths[name] = np.mean([one.stats.mean_accepted_length for one in texts])
    assert lengths["b"] > 2.0 and lengths["b"] > lengths["short"] + 0.3, lengths


def test_a_shared_output_matrix_lies_in_the_folder(target: Any, features: Features, tmp_path: Path) -> None:
    """For other engines: the model's rows, as f16."""
    from safetensors.numpy import load_file

    trained(target, features, tmp_path, plan=Plan(1), outputs="shared")
    tensors = load_file(tmp_path / WEIGHTS)
    rows = target.output_rows(np.unique(features.tokens))
    np.testing.assert_array_equal(tensors["lm_heads.0.weight"], rows.astype(np.float16))
    assert tensors["token_map"].dtype == np.int64 and "lm_heads.1.weight" not in tensors


def test_all_tokens_need_no_map(target: Any, features: Features, tmp_path: Path) -> None:
    trained(target, features, tmp_path, plan=Plan(1), token_ids=np.arange(target.vocab_size))
    found = read_medusa(tmp_path)
    assert found.token_ids is None
    assert found.config.truncated_vocab_size == found.config.vocab_size == target.vocab_size


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
    with pytest.raises(OutpaceError, match=f"holds a run with original_lm_head={outputs == 'shared'}"):
        other = "own" if outputs == "shared" else "shared"
        trained(target, features, tmp_path / "parts", **options | {"outputs": other})
    assert json.loads((tmp_path / "parts" / RUN).read_text())["finished"]["num_heads"] == 3


def test_bfloat16_changes_products_alone(target: Any, features: Features, tmp_path: Path) -> None:
    plan = Plan(3, lr=1e-2)
    for precision in ("float32", "bfloat16"):
        trained(target, features, tmp_path / precision, plan=plan, precision=precision)
    one, other = (read_medusa(tmp_path / name).tensors for name in ("float32", "bfloat16"))
    name = "blocks.0.layers.0.weight"
    assert (one[name] != other[name]).any()
    assert np.corrcoef(one[name].ravel(), other[name].ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "medusa has num_heads=0, accepted are whole numbers from 1 to 64"),
        ({"num_heads": 65}, "medusa has num_heads=65"),
        ({"num_layers": 2.0}, r"medusa has num_layers=2\.0, accepted are whole numbers from 1 to 16"),
        ({"num_layers": 17}, "medusa has num_layers=17"),
        ({"batch": 0}, "medusa has batch=0, accepted are multiples of 64 up to 1048576"),
        ({"batch": 65}, "medusa has batch=65"),
        ({"outputs": "none"}, "outputs is 'none', accepted are shared, own"),
        ({"precision": "float16"}, "precision is 'float16', accepted are float32, bfloat16"),
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
