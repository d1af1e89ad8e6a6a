"""Medusa drafts: what their heads say, where they are looked for, and a text that they know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace import drafters  # noqa: E402
from outpace.core.contracts import ByDepth  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling, choose  # noqa: E402
from outpace.core.steps import Ask  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.drafters.heads.independent import FLOOR, RANKS  # noqa: E402
from outpace.drafters.heads.last_state import HeadsState  # noqa: E402
from outpace.drafters.heads.medusa import Medusa  # noqa: E402
from outpace.drafters.mix import mix as make_mix  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads import packaged  # noqa: E402
from outpace.heads.medusa import MedusaWeights, write_medusa  # noqa: E402
from outpace.heads.medusa_heads import MedusaHeads  # noqa: E402
from outpace.pricing.costs import straight  # noqa: E402
from outpace.rules import RULES  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.table import TableTarget  # noqa: E402
from outpace.trees import TREES  # noqa: E402
from tests.fakes import whole  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.made_heads import states_of, write_random_medusa  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

IDS = [0, 3, 8, 77, 150, 255, 256, 299]
PROMPT = [1, 2, 3, 1, 2]
SAMPLED = Sampling(temperature=0.8, top_p=0.95, seed=4)
SAMPLINGS = [Sampling(), SAMPLED]


def hf_causal(folder: Path) -> Any:
    return HfCausalTarget(tiny_model("gpt2", num_hidden_layers=1), context_length=64)


def native_f32(folder: Path) -> Any:
    return gguf_target(folder, "llama", "F32", context_length=64)


@pytest.fixture(scope="module", params=[hf_causal, native_f32], ids=lambda factory: factory.__name__)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return request.param(tmp_path_factory.mktemp("model"))


def make(target: Any, folder: Path, *, tree: str | None = None, **options: Any) -> Medusa:
    policy = TREES.create(tree, costs=None) if tree else None
    return Medusa(target, path=str(folder), tree=policy, **options)


def row(hidden: np.ndarray) -> HeadsState:
    state = HeadsState()
    state.hidden = hidden
    return state


def proposed(drafter: Medusa, states: np.ndarray, **asked: Any) -> list[TokenTree]:
    """What is drafted behind these states f32[n, D], with the root 3 at place 9."""
    fields: dict[str, Any] = {"sampling": Sampling(), "budget": 60, "depth": 20, "law": False} | asked
    return drafter.propose([row(hidden) for hidden in states], [Ask(3, 9, **fields)] * len(states))


@pytest.mark.parametrize("token_ids", [None, IDS])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_first_head_drafts_the_token_below_the_root(
    target: Any, tmp_path: Path, sampling: Sampling, token_ids: Any
) -> None:
    """Head h that of level h, with the noise of its place."""
    write_random_medusa(tmp_path, target, num_heads=4, token_ids=token_ids)
    states, heads = states_of(target, [5, 17, 3]), MedusaHeads(target, tmp_path)
    chains = proposed(make(target, tmp_path, tree="chain:length=9"), states, sampling=sampling)
    for logits, chain in zip(heads.logits(states), chains, strict=True):
        assert chain.is_chain
        assert chain.token_list == [3, *choose(heads.whole(logits), sampling, [10, 11, 12, 13])]
    short = proposed(make(target, tmp_path, tree="chain:length=9", heads=2), states, sampling=sampling)
    assert [tree.token_list for tree in short] == [tree.token_list[:3] for tree in chains]


def test_what_it_expects_by_depth(target: Any, tmp_path: Path) -> None:
    """Which is what `mix` reads."""
    write_random_medusa(tmp_path, target, token_ids=IDS)
    [state] = states_of(target, [5, 17])[1:]
    drafter: Any = make(target, tmp_path)
    assert isinstance(drafter, ByDepth)
    ask = Ask(3, 9, Sampling(), 60, 20, law=False)
    logits = MedusaHeads(target, tmp_path).logits(state[None])[0].astype(np.float64)
    laws = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = drafter.expected_by_depth(row(state), ask)
    assert len(found) == len(laws) == 3
    for law, pairs in zip(laws, found, strict=True):
        ranked = sorted(((p, token) for p, token in zip(law, IDS, strict=True) if p > FLOOR), reverse=True)
        assert [token for token, _ in pairs] == [token for _, token in ranked[:RANKS]]
        np.testing.assert_allclose([q for _, q in pairs], [p for p, _ in ranked[:RANKS]], rtol=1e-4)
    assert drafter.expected_by_depth(HeadsState(), ask) == []


def plainly(target: Any, sampling: Sampling) -> list[int]:
    ended: Generation = whole(generate(target, NoDraft(), Match(), Request(PROMPT, sampling, 24)))[1]
    return ended.token_ids


def learn_by_heart(folder: Path, target: Any, answer: list[int]) -> None:
    """Heads whose own output matrices are solved for the tokens of this answer; the layers are random."""
    heads = write_random_medusa(folder, target, num_heads=3, num_hidden_layers=1)
    states = states_of(target, [*PROMPT, *answer])[len(PROMPT) - 1 :]
    places = range(len(answer) - 3)
    found = MedusaHeads(target, folder)._layers(states[places]).astype(np.float64)
    tensors = dict(heads.tensors)
    for head in range(3):
        wanted = -np.ones((len(places), target.vocab_size))
        for place in places:
            wanted[place, answer[place + head + 1]] = 20.0
        solved = np.linalg.lstsq(found[:, head], wanted, rcond=None)[0]
        tensors[f"lm_heads.{head}.weight"] = solved.T.astype(np.float32)
    write_medusa(folder, MedusaWeights(heads.config, tensors, None))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_heads_that_know_the_text_by_heart(target: Any, sampling: Sampling, tmp_path: Path) -> None:
    """The output is plain decoding's, and most drafts are kept."""
    plain = plainly(target, sampling)
    learn_by_heart(tmp_path, target, plain)
    for shape in (None, "chain:length=3", "static:widths=[2,1,1]", "dynamic:size=6"):
        options = {} if shape else {"min_p": 0.01, "size": 8}
        drafter = make(target, tmp_path, tree=shape, **options)
        ended: Generation = whole(generate(target, drafter, Match(), Request(PROMPT, sampling, 24)))[1]
        assert ended.token_ids == plain, shape
        assert ended.stats.mean_accepted_length > 2.5, shape


@pytest.mark.parametrize("rule", ["speculative", "typical"])
def test_rules_that_read_laws_and_the_papers_own_run(target: Any, tmp_path: Path, rule: str) -> None:
    write_random_medusa(tmp_path, target, original_lm_head=True)
    drafter = make(target, tmp_path, tree="chain:length=3")
    ended: Generation = whole(generate(target, drafter, RULES.create(rule), Request(PROMPT, SAMPLED, 20)))[1]
    assert len(ended.token_ids) == 20 and ended.stats.num_drafted > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "medusa has size=0, accepted are whole numbers from 1 to 65536"),
        ({"min_p": 1.5}, "medusa has min_p=1.5, accepted are 0 to 1"),
        ({"heads": 2.5}, "heads is 2.5, accepted are whole numbers and None"),
    ],
)
def test_options_out_of_range(target: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OutpaceError, match=message):
        make(target, Path("nowhere"), **options)


def test_what_is_no_folder_of_heads_is_named(target: Any, tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match=r"no folder of heads .* accepted is what `outpace train medusa`"):
        drafters.make_drafter(f"medusa:path={tmp_path / 'gone'}", None, {"target": target})
    with pytest.raises(OutpaceError, match="near"):
        drafters.make_drafter(f"medusa:path={tmp_path},near=1", None, {"target": target})


def test_where_heads_are_looked_for(target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the model's packed weights, then in the package."""
    monkeypatch.setattr(packaged, "PACKAGED", tmp_path / "package")

    def beside(name: str) -> Path:
        return tmp_path / "own" / name

    for found in (None, beside):
        with pytest.raises(OutpaceError, match=r"it has: none\); accepted is medusa:path=FOLDER"):
            Medusa(target, found)
    write_random_medusa(tmp_path / "package" / "medusa" / "mine", target, num_heads=2)
    for found in (None, beside):
        assert Medusa(target, found)._heads.num_drafted == 2
    write_random_medusa(beside("medusa"), target, num_heads=5)
    assert Medusa(target, beside)._heads.num_drafted == 5
    assert Medusa(target)._heads.num_drafted == 2
    untapped: Any = TableTarget.random(vocab_size=300, order=1)
    with pytest.raises(
        OutpaceError, match="medusa reads hidden states and the target TableTarget shows none"
    ):
        Medusa(untapped)


def test_a_mix_has_its_drafts(target: Any, tmp_path: Path) -> None:
    write_random_medusa(tmp_path, target, num_heads=3, original_lm_head=True)
    context: dict[str, Any] = {"target": target, "beside": None}
    drafter = make_mix(context, lambda: straight(0.001), drafts=f"ngram+[medusa:path={tmp_path}]")
    assert [type(one) for one in drafter.sources][1] is Medusa
    ended: Generation = whole(generate(target, drafter, Match(), Request(PROMPT, Sampling(), 24)))[1]
    assert ended.token_ids == plainly(target, Sampling()) and ended.stats.num_drafted > 0
