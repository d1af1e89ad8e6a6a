"""Folders of Hydra heads: what is written is read, every fault is named, the layers are torch's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import FormatError, OutpaceError  # noqa: E402
from outpace.heads.folder import CONFIG, WEIGHTS  # noqa: E402
from outpace.heads.hydra import HydraConfig, HydraWeights, read_hydra, write_hydra  # noqa: E402
from outpace.heads.hydra_heads import HydraHeads  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.table import TableTarget  # noqa: E402
from tests.heads.test_file import with_file, with_nan, with_tensors  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.made_heads import (  # noqa: E402
    hydra_logits,
    random_tensors,
    states_of,
    with_config,
    write_random_hydra,
    write_random_medusa,
)
from tests.native_models import gguf_target  # noqa: E402

OWN = HydraConfig(2, 2, 6, 11, 3, "sha256:x", "a model", shared_output=False)
SHARED = HydraConfig(3, 1, 5, 7, 7, "sha256:y")
CONFIGS = [OWN, SHARED, replace(OWN, num_tokens=11), replace(SHARED, model="m", num_tokens=2)]
IDS = [0, 3, 77, 150, 255, 299]


def made(config: HydraConfig) -> HydraWeights:
    """Of the last tokens, if they are not all."""
    first, end = config.vocab_size - config.num_tokens, config.vocab_size
    ids = np.arange(first, end, dtype=np.int32) if first else None
    return HydraWeights(config, random_tensors(config.shapes(), 3), ids)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_was_written_is_read(tmp_path: Path, config: HydraConfig) -> None:
    heads = made(config)
    write_hydra(tmp_path / "a" / "b", heads)
    found = read_hydra(tmp_path / "a" / "b")
    assert found.config == config and found.tensors.keys() == heads.tensors.keys()
    for name, tensor in heads.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    if heads.token_ids is None:
        assert found.token_ids is None
    else:
        assert found.token_ids is not None and found.token_ids.tolist() == heads.token_ids.tolist()
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [CONFIG, WEIGHTS]


def test_a_head_reads_one_token_more_than_the_one_before() -> None:
    shapes = SHARED.shapes()
    assert [shapes[f"blocks.{head}.layers.0.weight"] for head in range(3)] == [(5, 10), (5, 15), (5, 20)]
    assert OWN.shapes()["blocks.1.layers.1.weight"] == (6, 6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_file(CONFIG, lambda data: None), r"cannot read .*config\.json"),
        (with_config(method="medusa"), "heads of the method 'medusa', accepted is 'hydra'"),
        (with_config(version=9), "version 9, accepted is 1"),
        (with_config(num_heads=0), "num_heads is 0, accepted are whole numbers from 1 to 64"),
        (with_config(num_heads=65), "num_heads is 65, accepted are whole numbers from 1 to 64"),
        (with_config(num_layers=0), "num_layers is 0, accepted are whole numbers from 1 to 16"),
        (with_config(num_layers=True), "num_layers is True"),
        (with_config(hidden_size=6.0), r"hidden_size is 6\.0"),
        (with_config(vocab_size=...), "vocab_size is None, accepted are whole numbers >= 1"),
        (with_config(num_tokens=12), "num_tokens is 12, accepted are whole numbers from 1 to 11"),
        (with_config(shared_output=1), "shared_output is 1, accepted are true and false"),
        (with_config(target=""), "target is '', expected the fingerprint"),
        (with_config(num_heads=3), r"blocks\.2\.layers\.0\.weight is missing, expected floats \[6, 24\]"),
        (with_config(num_layers=3), r"blocks\.0\.layers\.2\.weight is missing, expected floats \[6, 6\]"),
        (
            with_config(hidden_size=7),
            r"blocks\.0\.layers\.0\.weight is F16\[6, 12\], expected floats \[7, 14\]",
        ),
        (with_tensors(blocks__1__layers__0__bias=None), r"blocks\.1\.layers\.0\.bias is missing"),
        (
            with_tensors(blocks__1__layers__0__weight=lambda tensor: tensor[:, :12]),
            r"blocks\.1\.layers\.0\.weight is F16\[6, 12\], expected floats \[6, 18\]",
        ),
        (with_tensors(blocks__1__layers__1__weight=with_nan), r"blocks\.1\.layers\.1\.weight has values"),
        (with_tensors(lm_heads__1__weight=None), r"lm_heads\.1\.weight is missing, expected floats \[3, 6\]"),
        (with_tensors(token_ids=None), "token_ids is missing, expected 3"),
        (with_tensors(token_ids=np.array([1, 2], np.int32)), "token_ids is of 2 tokens, expected 3"),
        (with_tensors(token_ids=np.array([1, 3, 2], np.int32)), "token_ids are not ascending"),
        (with_tensors(token_ids=np.array([1, 2, 11], np.int32)), "token_ids has the token 11, accepted are"),
        (with_tensors(token_ids=np.array([1, 2, 3])), r"token_ids is I64\[3\], expected I32\[M\]"),
        (with_file(WEIGHTS, lambda data: None), r"has no weights: expected model\.safetensors"),
        (with_file(WEIGHTS, lambda data: data[:-1]), "truncated"),
    ],
)
def test_every_fault_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_hydra(tmp_path, made(OWN))
    damage(tmp_path)
    with pytest.raises(FormatError, match=message) as raised:
        read_hydra(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FormatError, match=r"no folder of heads .*gone, accepted is what `outpace train hydra`"
    ):
        read_hydra(tmp_path / "gone")


def test_what_does_not_fit_is_none() -> None:
    """It would be written, and refused at the next start."""
    heads = made(OWN)
    with pytest.raises(AssertionError, match="tensors of shapes"):
        HydraWeights(replace(OWN, hidden_size=5), heads.tensors, heads.token_ids)
    for ids in (np.arange(2, dtype=np.int32), None):
        with pytest.raises(AssertionError, match="an id for every drafted token"):
            HydraWeights(OWN, heads.tensors, ids)


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
NEAR = {hf_causal: 0.04, native_f32: 1e-5, native_q8: 0.04}


@pytest.fixture(params=NEAR, ids=lambda factory: factory.__name__)
def target(request: pytest.FixtureRequest, made_target: Callable[..., Any]) -> Any:
    return made_target(request.param)


def said(heads: HydraHeads, state: np.ndarray, path: Sequence[int]) -> np.ndarray:
    """f32[M] behind a path, its root first."""
    read = heads.begin(state[None], path[:1])
    for depth, token in enumerate(path[1:], start=1):
        read = heads.follow(read, depth, [token])
    [logits] = heads.logits(state[None], len(path) - 1, read)
    return logits


class Twin:
    """A folder's heads by the paper's words, in torch: each reads one long vector, and nothing is kept.

    knows  how many of the tokens before its own a head sees; None for all. Others are those of token 0.
    """

    def __init__(self, folder: Path, target: Any, *, knows: int | None = None) -> None:
        from safetensors.torch import load_file

        self.config = json.loads((folder / CONFIG).read_text())
        self.tensors = {name: one.double() for name, one in load_file(folder / WEIGHTS).items()}
        rows = torch.from_numpy(target.input_rows(np.arange(target.vocab_size))).double()
        self.embeddings, self.output = rows, torch.from_numpy(target.output_rows()).double()
        self.knows = knows

    def __call__(self, state: np.ndarray, path: Sequence[int]) -> np.ndarray:
        """f64[V] behind a path, its root first; -inf for tokens that are not drafted."""
        head, x = len(path) - 1, torch.from_numpy(state).double()
        seen = len(path) if self.knows is None else self.knows
        parts = [x, *(self.embeddings[token if at < seen else 0] for at, token in enumerate(path))]
        read = torch.cat([part * (part.square().mean() + 1e-6).rsqrt() for part in parts])
        for layer in range(self.config["num_layers"]):
            name = f"blocks.{head}.layers.{layer}"
            weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
            x = x + torch.nn.functional.silu(torch.nn.functional.linear(read, weight, bias))
            read = x
        ids = self.tensors["token_ids"].long() if "token_ids" in self.tensors else slice(None)
        output = self.output[ids] if self.config["shared_output"] else self.tensors[f"lm_heads.{head}.weight"]
        every = torch.full((len(self.output),), -torch.inf).double()
        every[ids] = output @ x
        found: np.ndarray = every.numpy()
        return found


PATHS = [[5], [299], [5, 9], [299, 0], [5, 0, 77], [7, 150, 150]]


@pytest.mark.parametrize("token_ids", [None, IDS])
@pytest.mark.parametrize(
    "options",
    [
        {"shared_output": True, "num_layers": 1},
        {"shared_output": True},
        {"num_layers": 3, "num_heads": 4},
        {"num_layers": 1},
    ],
    ids=str,
)
def test_logits_are_those_of_torch_and_of_numpy(
    target: Any, made_target: Callable[..., Any], tmp_path: Path, options: dict[str, Any], token_ids: Any
) -> None:
    """Path by path, of tokens that are drafted and of others."""
    heads = write_random_hydra(tmp_path, target, token_ids=token_ids, **options)
    states = states_of(target, [5, 17, 3, 250, 9])
    drafter, twin = HydraHeads(target, tmp_path), Twin(tmp_path, target)
    assert drafter.num_drafted == heads.config.num_heads
    [near] = [NEAR[factory] for factory in NEAR if made_target(factory) is target]
    embeddings, output = target.input_rows(np.arange(300)), target.output_rows()
    kept = slice(None) if token_ids is None else np.array(token_ids)
    for state, path in zip([*states, states[0]], PATHS, strict=True):
        logits, expected = said(drafter, state, path), twin(state, path)[kept]
        most = np.abs(expected).max()
        assert np.abs(logits - expected).max() < near * most, path
        by_numpy = hydra_logits(heads, state, embeddings, output, path)
        np.testing.assert_allclose(by_numpy, expected, rtol=1e-9, atol=1e-9 * most)
        whole = drafter.whole(logits[None])[0]
        assert whole.shape == (300,)
        np.testing.assert_array_equal(whole[kept], logits)
        assert np.isneginf(whole).sum() == (0 if token_ids is None else 300 - len(token_ids))


def test_heads_that_ignore_a_drafted_token_are_others(
    target: Any, made_target: Callable[..., Any], tmp_path: Path
) -> None:
    """The comparison above would not take them: behind the root alone there is nothing to ignore."""
    write_random_hydra(tmp_path, target)
    drafter, wrong = HydraHeads(target, tmp_path), Twin(tmp_path, target, knows=1)
    blind = Twin(tmp_path, target, knows=0)
    [near] = [NEAR[factory] for factory in NEAR if made_target(factory) is target]
    [state] = states_of(target, [5, 17])[1:]
    for path in ([5], [5, 9], [5, 9, 77]):
        logits = said(drafter, state, path)
        far = [np.abs(logits - one(state, path)).max() / np.abs(logits).max() for one in (wrong, blind)]
        assert far[1] > 2 * near and (far[0] > 2 * near) == (len(path) > 1), (path, far)


def test_many_rows_and_nodes_are_as_one(target: Any, tmp_path: Path) -> None:
    write_random_hydra(tmp_path, target)
    heads, states = HydraHeads(target, tmp_path), states_of(target, [5, 17, 3])
    together = heads.follow(heads.begin(states, [5, 6, 5]), 1, [9, 9, 8])
    found = heads.logits(states, 1, together)
    alone = np.stack(
        [said(heads, state, path) for state, path in zip(states, ([5, 9], [6, 9], [5, 8]), strict=True)]
    )
    if not hasattr(target, "model"):
        np.testing.assert_array_equal(found, alone)
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-4 * np.abs(alone).max())


def test_the_first_of_the_heads_are_used(target: Any, tmp_path: Path) -> None:
    [state] = states_of(target, [5, 17])[1:]
    for shared in (False, True):
        write_random_hydra(tmp_path, target, num_heads=4, shared_output=shared)
        every = HydraHeads(target, tmp_path)
        for num_heads in (1, 2, 4):
            some = HydraHeads(target, tmp_path, num_heads=num_heads)
            assert some.num_drafted == num_heads
            path = [5, 9, 3, 7][:num_heads]
            np.testing.assert_allclose(
                said(some, state, path), said(every, state, path), rtol=1e-4, atol=1e-4
            )
    for num_heads in (5, 0, -1):
        with pytest.raises(OutpaceError, match=rf"are 4; accepted are 1 to 4, not {num_heads}"):
            HydraHeads(target, tmp_path, num_heads=num_heads)


def test_heads_of_other_models_are_refused(made_target: Callable[..., Any], tmp_path: Path) -> None:
    target = made_target(hf_causal)
    others = [
        (with_config(target="sha256:z"), "were trained on another model (a tiny model); accepted are heads"),
        (with_config(vocab_size=301), "are for a vocabulary of 301 tokens, accepted are 300"),
    ]
    for change, message in others:
        write_random_hydra(tmp_path / "b", target, token_ids=IDS)
        change(tmp_path / "b")
        with pytest.raises(OutpaceError) as raised:
            HydraHeads(target, tmp_path / "b")
        assert message in str(raised.value)
    with pytest.raises(OutpaceError, match=r"hydra reads hidden states and input embeddings, .* TableTarget"):
        HydraHeads(TableTarget.random(vocab_size=300, order=1), tmp_path / "b")
    write_random_medusa(tmp_path / "c", target)
    with pytest.raises(FormatError, match="heads of the method 'medusa', accepted is 'hydra'"):
        HydraHeads(target, tmp_path / "c")
