"""Folders of Medusa heads: what is written is read, by vLLM's names too; faults are named; the layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import FormatError, OutpaceError  # noqa: E402
from outpace.heads.folder import CONFIG, WEIGHTS  # noqa: E402
from outpace.heads.medusa import MedusaConfig, MedusaWeights, read_medusa, write_medusa  # noqa: E402
from outpace.heads.medusa_heads import MedusaHeads  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.table import TableTarget  # noqa: E402
from tests.heads.test_file import with_file, with_nan, with_tensors  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.made_heads import (  # noqa: E402
    medusa_states,
    random_tensors,
    states_of,
    with_config,
    write_random,
    write_random_medusa,
)
from tests.native_models import gguf_target  # noqa: E402

OWN = MedusaConfig(2, 2, 6, 11, 3, "sha256:x", "a model")
SHARED = MedusaConfig(3, 1, 5, 7, 7, "sha256:y", original_lm_head=True, medusa_fc_bias=False)
CONFIGS = [OWN, SHARED, replace(OWN, logit_scale=0.25, truncated_vocab_size=11), replace(SHARED, model="m")]
IDS = [0, 3, 77, 150, 255, 299]


def made(config: MedusaConfig) -> MedusaWeights:
    """Of the last tokens, if they are not all."""
    first, end = config.vocab_size - config.truncated_vocab_size, config.vocab_size
    ids = np.arange(first, end) if first else None
    return MedusaWeights(config, random_tensors(config.shapes(), 3), ids)


def output_of(config: MedusaConfig) -> np.ndarray | None:
    """What is written in place of the model's own rows."""
    shape = (config.truncated_vocab_size, config.hidden_size)
    return np.full(shape, 0.5, np.float32) if config.original_lm_head else None


def write(folder: Path, config: MedusaConfig) -> MedusaWeights:
    write_medusa(folder, made(config), output=output_of(config))
    return made(config)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_was_written_is_read(tmp_path: Path, config: MedusaConfig) -> None:
    heads = write(tmp_path / "a" / "b", config)
    found = read_medusa(tmp_path / "a" / "b")
    assert found.config == config and found.tensors.keys() == heads.tensors.keys()
    for name, tensor in heads.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    if heads.token_ids is None:
        assert found.token_ids is None
    else:
        assert found.token_ids is not None and found.token_ids.tolist() == heads.token_ids.tolist()
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [CONFIG, WEIGHTS]


def test_a_map_of_all_tokens_is_none(tmp_path: Path) -> None:
    write(tmp_path, SHARED)
    with_tensors(token_map=np.arange(7))(tmp_path)
    assert read_medusa(tmp_path).token_ids is None


def test_a_scale_that_is_not_there_is_one(tmp_path: Path) -> None:
    write(tmp_path, OWN)
    with_config(logit_scale=...)(tmp_path)
    assert read_medusa(tmp_path).config == OWN


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_file(CONFIG, lambda data: None), r"cannot read .*config\.json"),
        (with_config(method="blockwise"), "heads of the method 'blockwise', accepted is 'medusa'"),
        (with_config(version=9), "version 9, accepted is 1"),
        (with_config(model_type="eagle"), "model_type is 'eagle', accepted is 'medusa'"),
        (with_config(model_type=...), "model_type is None, accepted is 'medusa'"),
        (with_config(num_heads=0), "num_heads is 0, accepted are whole numbers from 1 to 64"),
        (with_config(num_heads=65), "num_heads is 65, accepted are whole numbers from 1 to 64"),
        (with_config(num_hidden_layers=0), "num_hidden_layers is 0, accepted are whole numbers from 1 to 16"),
        (with_config(num_hidden_layers=True), "num_hidden_layers is True"),
        (with_config(hidden_size=6.0), r"hidden_size is 6\.0"),
        (with_config(vocab_size=...), "vocab_size is None, accepted are whole numbers >= 1"),
        (with_config(truncated_vocab_size=12), "truncated_vocab_size is 12, accepted are .* from 1 to 11"),
        (with_config(original_lm_head=1), "original_lm_head is 1, accepted are true and false"),
        (with_config(medusa_fc_bias=...), "medusa_fc_bias is None, accepted are true and false"),
        (with_config(logit_scale=0), "logit_scale is 0, accepted are numbers above 1e-06, up to 1e"),
        (
            with_config(logit_scale=1e300),
            r"logit_scale is 1e\+300, accepted are numbers above 1e-06, up to 1e",
        ),
        (
            with_config(logit_scale=1e-300),
            "logit_scale is 1e-300, accepted are numbers above 1e-06, up to 1e",
        ),
        (with_config(logit_scale=10**400), "logit_scale is 10000"),
        (with_config(logit_scale=float("nan")), "logit_scale is nan"),
        (with_config(logit_scale=True), "logit_scale is True"),
        (with_config(logit_scale=float("inf")), "logit_scale is inf|config.json is not valid JSON"),
        (with_config(target=""), "target is '', expected the fingerprint"),
        (with_config(num_heads=3), r"blocks\.2\.layers\.0\.weight is missing, expected floats \[6, 6\]"),
        (with_config(num_hidden_layers=3), r"blocks\.0\.layers\.2\.weight is missing"),
        (
            with_config(hidden_size=7),
            r"blocks\.0\.layers\.0\.weight is F16\[6, 6\], expected floats \[7, 7\]",
        ),
        (with_tensors(blocks__1__layers__0__bias=None), r"blocks\.1\.layers\.0\.bias is missing"),
        (
            with_tensors(blocks__1__layers__1__weight=with_nan),
            r"blocks\.1\.layers\.1\.weight has values that",
        ),
        (with_tensors(lm_heads__1__weight=None), r"lm_heads\.1\.weight is missing, expected floats \[3, 6\]"),
        (with_tensors(lm_heads__0__weight=np.transpose), r"lm_heads\.0\.weight is F16\[6, 3\]"),
        (with_tensors(token_map=None), "token_map is missing, expected 3"),
        (with_tensors(token_map=np.array([1, 2])), "token_map is of 2 tokens, expected 3"),
        (with_tensors(token_map=np.array([1, 3, 2])), "token_map are not ascending"),
        (with_tensors(token_map=np.array([1, 2, 2])), "token_map are not ascending"),
        (with_tensors(token_map=np.array([-1, 1, 2])), "token_map are not ascending"),
        (with_tensors(token_map=np.array([1, 2, 11])), "token_map has the token 11, accepted are 0 to 10"),
        (with_tensors(token_map=np.array([1, 2, 3], np.int32)), r"token_map is I32\[3\], expected I64\[M\]"),
        (with_tensors(token_map=np.array([[1, 2, 3]])), r"token_map is I64\[1, 3\], expected I64\[M\]"),
        (with_file(WEIGHTS, lambda data: None), r"has no weights: expected model\.safetensors"),
        (with_file(WEIGHTS, lambda data: data[:-1]), "truncated"),
    ],
)
def test_every_fault_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write(tmp_path, OWN)
    damage(tmp_path)
    with pytest.raises(FormatError, match=message) as raised:
        read_medusa(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"lm_heads\.0\.weight is missing, expected floats \[7, 5\]"),
        (np.transpose, r"lm_heads\.0\.weight is F16\[5, 7\], expected floats \[7, 5\]"),
    ],
)
def test_a_shared_output_matrix_is_looked_for(tmp_path: Path, change: Any, message: str) -> None:
    """Other engines read it."""
    write(tmp_path, SHARED)
    with_tensors(lm_heads__0__weight=change)(tmp_path)
    with pytest.raises(FormatError, match=message):
        read_medusa(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FormatError, match=r"no folder of heads .*gone, accepted is what `outpace train medusa`"
    ):
        read_medusa(tmp_path / "gone")


def test_what_does_not_fit_is_none(tmp_path: Path) -> None:
    """It would be written, and refused at the next start."""
    heads = made(OWN)
    with pytest.raises(AssertionError, match="tensors of shapes"):
        MedusaWeights(replace(OWN, hidden_size=5), heads.tensors, heads.token_ids)
    with pytest.raises(AssertionError, match="an id for every drafted token"):
        MedusaWeights(OWN, heads.tensors, np.arange(2))
    with pytest.raises(AssertionError, match="an id for every drafted token"):
        MedusaWeights(OWN, heads.tensors, None)
    with pytest.raises(AssertionError, match="an output matrix where it is shared"):
        write_medusa(tmp_path, heads, output=np.zeros((3, 6), np.float32))
    with pytest.raises(AssertionError, match="an output matrix where it is shared"):
        write_medusa(tmp_path, made(SHARED))
    with pytest.raises(AssertionError, match="a row for every drafted token"):
        write_medusa(tmp_path, made(SHARED), output=np.zeros((6, 5), np.float32))


def hf_causal(folder: Path) -> Any:
    return HfCausalTarget(tiny_model("gpt2", num_hidden_layers=1), context_length=64)


def native_f32(folder: Path) -> Any:
    return gguf_target(folder, "llama", "F32", context_length=64)


def native_q8(folder: Path) -> Any:
    return gguf_target(folder, "llama", "Q8_0", context_length=64)


@pytest.fixture(scope="module")
def made_target(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Any]], Any]:
    """One target of each kind."""
    targets: dict[Any, Any] = {}

    def make(factory: Callable[[Path], Any]) -> Any:
        if factory not in targets:
            targets[factory] = factory(tmp_path_factory.mktemp(factory.__name__))
        return targets[factory]

    return make


# Others round heads, and what they are multiplied with, to 8 bit; layer behind layer.
NEAR = {hf_causal: 0.03, native_f32: 1e-5, native_q8: 0.04}


@pytest.fixture(params=NEAR, ids=lambda factory: factory.__name__)
def target(request: pytest.FixtureRequest, made_target: Callable[..., Any]) -> Any:
    return made_target(request.param)


def vllm_logits(folder: Path, states: np.ndarray) -> np.ndarray:
    """f32[n, H, V] of a folder by nothing but the names of vLLM's checkpoints, in torch."""
    from safetensors.torch import load_file

    config = json.loads((folder / CONFIG).read_text())
    tensors = {name: one.double() for name, one in load_file(folder / WEIGHTS).items()}
    every = []
    for head in range(config["num_heads"]):
        x = torch.from_numpy(states).double()
        for layer in range(config["num_hidden_layers"]):
            name = f"blocks.{head}.layers.{layer}"
            bias = tensors[f"{name}.bias"] if config["medusa_fc_bias"] else None
            x = x + torch.nn.functional.silu(torch.nn.functional.linear(x, tensors[f"{name}.weight"], bias))
        output = tensors[f"lm_heads.{0 if config['original_lm_head'] else head}.weight"]
        logits = x @ output.T * config.get("logit_scale", 1.0)
        if config["truncated_vocab_size"] < config["vocab_size"]:
            of_some, logits = logits, torch.full((len(x), config["vocab_size"]), -torch.inf).double()
            logits[:, tensors["token_map"].long()] = of_some
        every.append(logits)
    assert config["model_type"] == "medusa"
    found: np.ndarray = torch.stack(every, dim=1).numpy()
    return found


@pytest.mark.parametrize("token_ids", [None, IDS])
@pytest.mark.parametrize(
    "options",
    [
        {"original_lm_head": True, "num_hidden_layers": 1},
        {"original_lm_head": True, "medusa_fc_bias": False},
        {"logit_scale": 0.5},
        {"num_hidden_layers": 3, "medusa_fc_bias": False, "num_heads": 4},
        {"num_heads": 1},
    ],
    ids=str,
)
def test_logits_are_those_of_a_reader_of_vllms_names(
    target: Any, made_target: Callable[..., Any], tmp_path: Path, options: dict[str, Any], token_ids: Any
) -> None:
    """And of plain arithmetic on what was written."""
    heads = write_random_medusa(tmp_path, target, token_ids=token_ids, **options)
    states = states_of(target, [5, 17, 3, 250, 9])
    drafter = MedusaHeads(target, tmp_path)
    logits = drafter.logits(states)
    count = 300 if token_ids is None else len(token_ids)
    assert logits.shape == (5, heads.config.num_heads, count)
    [near] = [NEAR[factory] for factory in NEAR if made_target(factory) is target]
    by_names = vllm_logits(tmp_path, states)
    by_names = by_names if token_ids is None else by_names[..., token_ids]
    ahead = medusa_states(heads, states)
    for head in range(heads.config.num_heads):
        if heads.config.original_lm_head:
            output = target.output_rows(None if token_ids is None else np.array(token_ids))
        else:
            output = heads.tensors[f"lm_heads.{head}.weight"] * heads.config.logit_scale
        expected = ahead[:, head] @ output.astype(np.float64).T
        most = np.abs(expected).max()
        assert np.abs(logits[:, head] - expected).max() < near * most
        # A shared matrix is in the folder as f16.
        assert np.abs(logits[:, head] - by_names[:, head]).max() < max(near, 1e-3) * most
        whole = drafter.whole(logits[:, head])
        assert whole.shape == (5, 300)
        if token_ids is not None:
            np.testing.assert_array_equal(whole[:, token_ids], logits[:, head])
            assert np.isneginf(np.delete(whole, token_ids, axis=1)).all()


def test_the_first_of_the_heads_are_used(target: Any, tmp_path: Path) -> None:
    states = states_of(target, [5, 17, 3])
    for shared in (False, True):
        write_random_medusa(tmp_path, target, num_heads=4, original_lm_head=shared)
        every = MedusaHeads(target, tmp_path).logits(states)
        for num_heads in (1, 2, 4):
            some = MedusaHeads(target, tmp_path, num_heads=num_heads)
            assert some.num_drafted == num_heads
            np.testing.assert_allclose(some.logits(states), every[:, :num_heads], rtol=1e-5, atol=1e-5)
    for num_heads in (5, 0, -1):
        with pytest.raises(OutpaceError, match=rf"are 4; accepted are 1 to 4, not {num_heads}"):
            MedusaHeads(target, tmp_path, num_heads=num_heads)


def test_states_do_not_see_one_another(target: Any, tmp_path: Path) -> None:
    write_random_medusa(tmp_path, target)
    heads, states = MedusaHeads(target, tmp_path), states_of(target, [5, 17, 3])
    alone = np.concatenate([heads.logits(state[None]) for state in states])
    if not hasattr(target, "model"):
        np.testing.assert_array_equal(heads.logits(states), alone)
    np.testing.assert_allclose(heads.logits(states), alone, rtol=1e-4, atol=1e-4)


def test_heads_of_other_models_are_refused(made_target: Callable[..., Any], tmp_path: Path) -> None:
    target = made_target(hf_causal)
    others = [
        (
            with_config(target="sha256:z"),
            "were trained on another model (a tiny model); accepted are heads of",
        ),
        (with_config(vocab_size=301), "are for a vocabulary of 301 tokens, accepted are 300"),
    ]
    for change, message in others:
        write_random_medusa(tmp_path / "b", target, token_ids=IDS)
        change(tmp_path / "b")
        with pytest.raises(OutpaceError) as raised:
            MedusaHeads(target, tmp_path / "b")
        assert message in str(raised.value)
    with pytest.raises(
        OutpaceError, match="medusa reads hidden states and the target TableTarget shows none"
    ):
        MedusaHeads(TableTarget.random(vocab_size=300, order=1), tmp_path / "b")
    write_random(tmp_path / "c", target)
    with pytest.raises(FormatError, match="heads of the method 'blockwise', accepted is 'medusa'"):
        MedusaHeads(target, tmp_path / "c")
