"""Drafts of Hydra heads against numpy: trees and laws, where heads are looked for, a text that they know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace import drafters  # noqa: E402
from outpace.core.call import Prompt  # noqa: E402
from outpace.core.edits import Edit  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling, warp  # noqa: E402
from outpace.core.steps import Ask, RowScores, ScoredCall, Step, Verdict  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.drafters.heads.hydra import Drafts, Hydra  # noqa: E402
from outpace.drafters.heads.last_state import HeadsState  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads import packaged  # noqa: E402
from outpace.heads.hydra import HydraWeights, write_hydra  # noqa: E402
from outpace.heads.hydra_heads import HydraHeads  # noqa: E402
from outpace.rules import RULES  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.table import TableTarget  # noqa: E402
from outpace.trees import TREES  # noqa: E402
from outpace.trees.grow import point_law  # noqa: E402
from tests.fakes import whole  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.made_heads import hydra_logits, states_of, write_random_hydra  # noqa: E402

IDS = [0, 3, 8, 77, 150, 255, 256, 299]
PROMPT = [1, 2, 3, 1, 2]
SAMPLED = Sampling(temperature=0.8, top_p=0.95, seed=4)
SAMPLINGS = [Sampling(), SAMPLED]


@pytest.fixture(scope="module")
def target() -> Any:
    """Its matrices are read as they are, so that two that are nearly equal cannot change places."""
    return HfCausalTarget(tiny_model("gpt2", num_hidden_layers=1).to(torch.float64), context_length=64)


@pytest.fixture
def heads(target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HydraWeights:
    monkeypatch.setattr("outpace.targets.hf_taps.TorchProduct.rounded", lambda product: product)
    return write_random_hydra(tmp_path, target, token_ids=IDS)


def make(target: Any, folder: Path, *, tree: str | None = None, **options: Any) -> Hydra:
    policy = TREES.create(tree, costs=None) if tree else None
    return Hydra(target, path=str(folder), tree=policy, **options)


def row(hidden: np.ndarray) -> HeadsState:
    state = HeadsState()
    state.hidden = hidden
    return state


def proposed(drafter: Hydra, states: np.ndarray, root: int = 5, **asked: Any) -> list[TokenTree]:
    """What is drafted behind these states f32[n, D], at place 9."""
    fields: dict[str, Any] = {"sampling": Sampling(), "budget": 60, "depth": 20, "law": False} | asked
    return drafter.propose([row(hidden) for hidden in states], [Ask(root, 9, **fields)] * len(states))


def states_for(target: Any, count: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, target.hidden_size)).astype(np.float32)


def logits_behind(heads: HydraWeights, target: Any, state: np.ndarray, path: Sequence[int]) -> np.ndarray:
    """f64[M], by numpy; the path begins with the root."""
    embeddings = target.input_rows(np.arange(target.vocab_size))
    return hydra_logits(heads, state, embeddings, target.output_rows(), path)


def path_to(tree: TokenTree, node: int) -> list[int]:
    return [tree.token_list[one] for one in tree.path_to(node)]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_chain_has_the_best_token_of_each_head(
    target: Any, heads: HydraWeights, tmp_path: Path, sampling: Sampling
) -> None:
    """Behind the tokens before it, with the noise of its place; as deep as there are heads."""
    states = states_for(target, 3)
    chains = proposed(make(target, tmp_path, tree="chain:length=9"), states, sampling=sampling)
    for state, chain in zip(states, chains, strict=True):
        path = [5]
        for depth in range(3):
            best, _ = point_law(
                logits_behind(heads, target, state, path), sampling, 10 + depth, 1, np.array(IDS)
            )
            path.append(IDS[best[0]])
        assert chain.is_chain and chain.token_list == path
    short = proposed(make(target, tmp_path, tree="chain:length=9", heads=2), states, sampling=sampling)
    assert [tree.token_list for tree in short] == [tree.token_list[:3] for tree in chains]
    # Which is not what heads say that see another token before.
    other = proposed(make(target, tmp_path, tree="chain:length=9"), states, root=77, sampling=sampling)
    assert [tree.token_list[1:] for tree in other] != [tree.token_list[1:] for tree in chains]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("tree", [None, "static:widths=[3,2,2]", "dynamic:size=9,k=3,depth=3"])
def test_probabilities_are_those_behind_each_path(
    target: Any, heads: HydraWeights, tmp_path: Path, tree: str | None, sampling: Sampling
) -> None:
    states = states_for(target, 2)
    for state, grown in zip(
        states, proposed(make(target, tmp_path, tree=tree), states, sampling=sampling), strict=True
    ):
        assert grown.num_nodes > 3 and grown.shape.height >= 2 and grown.logq is not None
        for node in range(1, grown.num_nodes):
            *before, token = path_to(grown, node)
            law = logits_behind(heads, target, state, before)
            odds = point_law(law, sampling, 9 + len(before), 1, np.array(IDS))[1][IDS.index(token)]
            np.testing.assert_allclose(np.exp(grown.logq[node]), odds, rtol=1e-3)


@pytest.mark.parametrize("tree", ["chain:length=9", "static:widths=[2,2]"])
def test_a_rule_that_reads_laws_gets_those_of_the_heads(
    target: Any, heads: HydraWeights, tmp_path: Path, tree: str
) -> None:
    drafter = make(target, tmp_path, tree=tree)
    [state] = states_for(target, 1)
    [drawn] = proposed(drafter, state[None], sampling=SAMPLED, law=True)
    assert drawn.draw != "point" and drafter.traits.draws
    inner = set(drawn.shape.parent_list[1:])
    assert len(inner) >= 3
    for node in inner:
        logits = np.full(target.vocab_size, -np.inf)
        logits[IDS] = logits_behind(heads, target, state, path_to(drawn, node))
        found = drawn.law(node)
        assert found is not None
        np.testing.assert_allclose(found, warp(logits, SAMPLED), rtol=1e-3, atol=1e-6)


def test_nodes_of_several_depths_share_a_call(target: Any, heads: HydraWeights, tmp_path: Path) -> None:
    """Policies of other packages may ask so; a row that wants more heads than there are gets nothing."""
    state, made = states_for(target, 1), HydraHeads(target, tmp_path)
    tree = TokenTree([5, 3, 8, 77, 3], [-1, 0, 0, 1, 3])
    drafts = Drafts(made, np.repeat(state, 2, axis=0), [5, 5])
    drafts.step([0, 1], [tree, tree], [[0], [0]])
    found = drafts.step([0, 1], [tree, tree], [[1, 2], [1]])
    deep = drafts.step([1, 0], [tree, tree], [[3], [2, 3]])
    for nodes, logits in (([1, 2], found[0]), ([1], found[1]), ([3], deep[0]), ([2, 3], deep[1])):
        assert logits is not None
        for node, one in zip(nodes, logits, strict=True):
            expected = logits_behind(heads, target, state[0], path_to(tree, node))
            np.testing.assert_allclose(one[IDS], expected, rtol=1e-4, atol=1e-4)
    below = drafts.step([0, 1], [tree, tree], [[3, 4], [3]])
    assert below[0] is None and below[1] is not None


@pytest.mark.parametrize(
    ("asked", "nodes", "height"),
    [({}, 6, 3), ({"budget": 2}, 2, 2), ({"budget": 0}, 0, 0), ({"depth": 1}, 2, 1), ({"depth": 0}, 0, 0)],
)
def test_budget_and_depth(
    target: Any, heads: HydraWeights, tmp_path: Path, asked: dict[str, int], nodes: int, height: int
) -> None:
    for tree in proposed(make(target, tmp_path), states_for(target, 2), **asked):
        assert tree.num_nodes == nodes + 1 and tree.shape.height <= height


def test_what_an_edit_forbids_is_not_drafted(target: Any, heads: HydraWeights, tmp_path: Path) -> None:
    """Behind each path its own tokens."""

    def edit(path: Sequence[int]) -> Edit:
        allowed = np.zeros(target.vocab_size, bool)
        allowed[[IDS[(len(path) + at) % 8] for at in range(3)]] = True
        return Edit(allowed=np.packbits(allowed, bitorder="little"))

    [tree] = proposed(make(target, tmp_path), states_for(target, 1), edit=edit)
    assert tree.num_nodes > 1
    for node in range(1, tree.num_nodes):
        depth = tree.shape.depths[node] - 1
        assert tree.token_list[node] in [IDS[(depth + at) % 8] for at in range(3)]


class Shown:
    """Scores that are hidden states."""

    def __init__(self, states: np.ndarray) -> None:
        self.states = states

    def hidden(self, tap: str) -> np.ndarray:
        assert tap == "final"
        return self.states


def test_it_goes_on_from_the_last_kept_node(target: Any, heads: HydraWeights, tmp_path: Path) -> None:
    drafter = make(target, tmp_path)
    tree, behind = TokenTree([5, 6, 7, 8], [-1, 0, 0, 2]), np.arange(16.0).reshape(8, 2)
    trees = [TokenTree.chain(1, [2, 3, 4]), tree]
    asks = [Ask(t.token_list[0], 0, Sampling(), 9, 9) for t in trees]
    scores: Any = Shown(behind)
    call = ScoredCall(scores, trees, asks)
    state = drafter.start(Prompt.of([1, 5]))
    assert [tree.num_nodes for tree in drafter.propose([state], asks[1:])] == [1]
    for path, token in (([], 9), ([1], 8), ([2], 7), ([2, 3], 6)):
        [state] = drafter.observe(
            [state], [Step(tree, RowScores(call, 1), Verdict(path, token, "identical"))]
        )
        assert state.hidden is not None
        assert state.hidden.tolist() == behind[4 + (path[-1] if path else 0)].tolist()
    drafter.stop(state)


def plainly(target: Any, sampling: Sampling) -> list[int]:
    ended: Generation = whole(generate(target, NoDraft(), Match(), Request(PROMPT, sampling, 24)))[1]
    return ended.token_ids


def learn_by_heart(folder: Path, target: Any, answer: list[int]) -> None:
    """Heads whose own output matrices are solved for the tokens of this answer; the layers are random."""
    heads = write_random_hydra(folder, target, num_heads=3, num_layers=1)
    states = states_of(target, [*PROMPT, *answer])[len(PROMPT) - 1 :]
    made, places, tensors = HydraHeads(target, folder), range(len(answer) - 3), dict(heads.tensors)
    silu = torch.nn.functional.silu
    for head in range(3):
        inputs, wanted = [], -np.ones((len(places), target.vocab_size))
        for place in places:
            read = made.begin(states[[place]], [answer[place]])
            for depth in range(1, head + 1):
                read = made.follow(read, depth, [answer[place + depth]])
            inputs.append(states[place] + silu(torch.from_numpy(read[0, 0])).numpy())
            wanted[place, answer[place + head + 1]] = 20.0
        solved = np.linalg.lstsq(np.stack(inputs).astype(np.float64), wanted, rcond=None)[0]
        tensors[f"lm_heads.{head}.weight"] = solved.T.astype(np.float32)
    write_hydra(folder, HydraWeights(heads.config, tensors, None))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_heads_that_know_the_text_by_heart(target: Any, sampling: Sampling, tmp_path: Path) -> None:
    """The output is plain decoding's, and most drafts are kept."""
    plain = plainly(target, sampling)
    learn_by_heart(tmp_path, target, plain)
    for shape in (None, "chain:length=3", "static:widths=[2,1,1]", "opt_tree:size=6,gain=0.05"):
        drafter = make(target, tmp_path, tree=shape)
        ended: Generation = whole(generate(target, drafter, Match(), Request(PROMPT, sampling, 24)))[1]
        assert ended.token_ids == plain, shape
        assert ended.stats.mean_accepted_length > 2.5, shape


@pytest.mark.parametrize("rule", ["speculative", "typical"])
def test_rules_that_read_laws_and_medusas_own_run(target: Any, tmp_path: Path, rule: str) -> None:
    write_random_hydra(tmp_path, target, shared_output=True)
    drafter = make(target, tmp_path, tree="chain:length=3")
    ended: Generation = whole(generate(target, drafter, RULES.create(rule), Request(PROMPT, SAMPLED, 20)))[1]
    assert len(ended.token_ids) == 20 and ended.stats.num_drafted > 10


def test_what_is_no_folder_of_heads_is_named(target: Any, tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match=r"no folder of heads .* accepted is what `outpace train hydra`"):
        drafters.make_drafter(f"hydra:path={tmp_path / 'gone'}", None, {"target": target})
    with pytest.raises(OutpaceError, match=r"has heads='2\.5', accepted are whole numbers, none"):
        drafters.make_drafter(f"hydra:path={tmp_path},heads=2.5", None, {"target": target})


def test_where_heads_are_looked_for(target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the model's packed weights, then in the package."""
    monkeypatch.setattr(packaged, "PACKAGED", tmp_path / "package")

    def beside(name: str) -> Path:
        return tmp_path / "own" / name

    for found in (None, beside):
        with pytest.raises(OutpaceError, match=r"it has: none\); accepted is hydra:path=FOLDER"):
            Hydra(target, found)
    write_random_hydra(tmp_path / "package" / "hydra" / "mine", target, num_heads=2)
    for found in (None, beside):
        assert Hydra(target, found)._heads.num_drafted == 2
    write_random_hydra(beside("hydra"), target, num_heads=5)
    assert Hydra(target, beside)._heads.num_drafted == 5
    assert Hydra(target)._heads.num_drafted == 2
    untapped: Any = TableTarget.random(vocab_size=300, order=1)
    with pytest.raises(OutpaceError, match=r"hydra reads hidden states and input embeddings, .* TableTarget"):
        Hydra(untapped)
