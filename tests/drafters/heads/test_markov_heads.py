"""Markov heads against numpy: its trees, its laws, what it goes on from, and a text that it knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.call import Prompt  # noqa: E402
from outpace.core.edits import Edit  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling, warp  # noqa: E402
from outpace.core.steps import Ask, RowScores, ScoredCall, Step, Verdict  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.drafters.heads.blocks import RANKS  # noqa: E402
from outpace.drafters.heads.markov_heads import MarkovHeads, MarkovState  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads.folder import MOST  # noqa: E402
from outpace.heads.markov_heads import MarkovWeights, write_markov  # noqa: E402
from outpace.pricing.costs import straight  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.trees import TREES  # noqa: E402
from outpace.trees.grow import point_law  # noqa: E402
from tests.fakes import whole  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.made_heads import markov_logits, write_random_markov  # noqa: E402

IDS = [0, 3, 8, 77, 150, 255, 256, 299]
SAMPLED = Sampling(temperature=0.8, top_p=0.95, seed=4)
SAMPLINGS = [Sampling(), SAMPLED]


@pytest.fixture(scope="module")
def target() -> Any:
    """Its matrices are read as they are, so that two that are nearly equal cannot change places."""
    model = tiny_model("gpt2", num_hidden_layers=2).to(torch.float64)
    return HfCausalTarget(model, context_length=64)


@pytest.fixture
def block(target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MarkovWeights:
    monkeypatch.setattr("outpace.targets.hf_taps.TorchProduct.rounded", lambda product: product)
    monkeypatch.setattr("outpace.heads.markov_pass.NEAR", 99.0)
    return write_random_markov(tmp_path, target, token_ids=IDS)


def make(target: Any, folder: Path, *, tree: str | None = None, **options: Any) -> MarkovHeads:
    policy = TREES.create(tree, costs=None) if tree else None
    return MarkovHeads(target, path=str(folder), tree=policy, **options)


def test_a_shape_that_is_to_pay_is_paced(target: Any, tmp_path: Path) -> None:
    write_random_markov(tmp_path, target, token_ids=IDS)
    priced = TREES.create("survival:beta=auto", costs=lambda: straight(0.1))
    made = [MarkovHeads(target, path=str(tmp_path), tree=shape) for shape in (None, priced)]
    assert [one.traits.paced for one in made] == ["shared", "always"]
    assert make(target, tmp_path, tree="survival:beta=0.1").traits.paced == "never"


def states_for(target: Any, count: int) -> np.ndarray:
    """f32[count, 2, D]: states of the two taps."""
    return np.random.default_rng(5).normal(size=(count, 2, target.hidden_size)).astype(np.float32)


def proposed(drafter: MarkovHeads, states: np.ndarray, root: int = 5, **asked: Any) -> list[TokenTree]:
    """What is drafted behind these states f32[n, T, D]."""
    rows = []
    for one in states:
        rows.append(MarkovState())
        rows[-1].states = one
    fields: dict[str, Any] = {"sampling": Sampling(), "budget": 60, "depth": 20, "law": False} | asked
    return drafter.propose(rows, [Ask(root, 9, **fields)] * len(rows))


Law = Callable[[Sequence[int]], np.ndarray]


def laws(block: MarkovWeights, target: Any, states: np.ndarray) -> Law:
    """Path below the root -> logits [M], by numpy."""
    output = target.output_rows()
    return lambda path: markov_logits(block, states, output, [5, *path])


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_tree_holds_the_likeliest_paths(
    target: Any, block: MarkovWeights, tmp_path: Path, sampling: Sampling
) -> None:
    states = states_for(target, 3)
    trees = proposed(make(target, tmp_path, size=9, min_p=0), states, sampling=sampling)
    for row, tree in zip(states, trees, strict=True):
        law, weights = laws(block, target, row), dict[tuple[int, ...], float]({(): 1.0})
        for depth in range(block.config.length):
            for path, weight in [*weights.items()]:
                if len(path) == depth:
                    best, odds = point_law(law(path), sampling, 10 + depth, RANKS, block.token_ids)
                    weights |= {(*path, IDS[at]): weight * odds[at] for at in best}
        wanted = sorted((path for path in weights if path), key=lambda path: -weights[path])[:9]
        nodes = range(1, tree.num_nodes)
        paths = [tuple(tree.token_list[i] for i in tree.path_to(n)[1:]) for n in nodes]
        assert set(paths) == set(wanted) and tree.draw == "point"
        assert tree.logq is not None
        found = [np.exp(tree.logq[tree.path_to(n)].sum()) for n in nodes]
        np.testing.assert_allclose(found, [weights[path] for path in paths], rtol=1e-3)
        floor = weights[paths[len(paths) // 2]] * 0.999
        [few] = proposed(make(target, tmp_path, size=9, min_p=floor), row[None], sampling=sampling)
        count = sum(weights[path] >= floor for path in paths)
        assert 0 < count and few.token_list == tree.token_list[: count + 1]


@pytest.mark.parametrize(
    ("asked", "nodes", "height"),
    [({}, 8, 3), ({"budget": 2}, 2, 2), ({"budget": 0}, 0, 0), ({"depth": 1}, 8, 1)],
)
def test_budget_and_depth(
    target: Any, block: MarkovWeights, tmp_path: Path, asked: dict[str, int], nodes: int, height: int
) -> None:
    for tree in proposed(make(target, tmp_path, size=8, min_p=0), states_for(target, 2), **asked):
        assert tree.num_nodes == nodes + 1 and tree.shape.height <= height


@pytest.mark.parametrize("tree", [None, "chain:length=9", "static:widths=[2,2]", "dynamic:size=7"])
def test_a_rule_that_reads_laws_gets_those_of_the_block(
    target: Any, block: MarkovWeights, tmp_path: Path, tree: str | None
) -> None:
    drafter = make(target, tmp_path, tree=tree)
    [state] = states_for(target, 1)
    law = laws(block, target, state)
    [drawn] = proposed(drafter, state[None], sampling=SAMPLED, law=True)
    assert (drawn.draw == "point") == (tree == "dynamic:size=7") == (not drafter.traits.draws)
    inner = set(drawn.shape.parent_list[1:])
    assert len(inner) >= 3
    if drawn.draw == "point":
        return
    for node in inner:
        path = [drawn.token_list[one] for one in drawn.path_to(node)[1:]]
        logits = np.full(target.vocab_size, -np.inf)
        logits[IDS] = law(path)
        found = drawn.law(node)
        assert found is not None
        np.testing.assert_allclose(found, warp(logits, SAMPLED), rtol=1e-3, atol=1e-6)


def test_what_an_edit_forbids_is_not_drafted(target: Any, block: MarkovWeights, tmp_path: Path) -> None:
    """Behind each path its own tokens."""
    state = states_for(target, 1)

    def edit(path: Sequence[int]) -> Edit:
        allowed = np.zeros(target.vocab_size, bool)
        allowed[[IDS[(len(path) + at) % 8] for at in range(3)]] = True
        return Edit(allowed=np.packbits(allowed, bitorder="little"))

    [free] = proposed(make(target, tmp_path), state)
    [tree] = proposed(make(target, tmp_path), state, edit=edit)
    assert tree.token_list != free.token_list and tree.num_nodes > 1
    for node in range(1, tree.num_nodes):
        depth = tree.shape.depths[node] - 1
        assert tree.token_list[node] in [IDS[(depth + at) % 8] for at in range(3)]


class Shown:
    """Scores that are hidden states, other ones at each tap."""

    def __init__(self, states: np.ndarray) -> None:
        self.states = states

    def hidden(self, tap: str) -> np.ndarray:
        return self.states + {"0": 100, "final": 0}[tap]


def test_it_goes_on_from_the_last_kept_node(target: Any, block: MarkovWeights, tmp_path: Path) -> None:
    drafter = make(target, tmp_path)
    tree, behind = TokenTree([5, 6, 7, 8], [-1, 0, 0, 2]), np.arange(16.0).reshape(8, 2)
    trees = [TokenTree.chain(1, [2, 3, 4]), tree]
    asks = [Ask(t.token_list[0], 0, Sampling(), 9, 9) for t in trees]
    scores: Any = Shown(behind)
    call = ScoredCall(scores, trees, asks)
    state = drafter.start(Prompt.of([1, 5]))
    assert [tree.num_nodes for tree in drafter.propose([state], asks[1:])] == [1]
    for path, token in (([], 9), ([1], 8), ([2], 7), ([2, 3], 6)):
        step = Step(tree, RowScores(call, 1), Verdict(path, token, "identical"))
        [state] = drafter.observe([state], [step])
        assert state.states is not None
        at = behind[4 + (path[-1] if path else 0)]
        assert state.states.tolist() == [(at + 100).tolist(), at.tolist()]
    drafter.stop(state)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_plain_decodings_tokens(
    target: Any, block: MarkovWeights, tmp_path: Path, sampling: Sampling
) -> None:
    """And a draft is kept now and then: the random model says few different tokens."""
    request = Request([1, 2, 3, 1, 2], sampling, 24)
    plain: Generation = whole(generate(target, NoDraft(), Match(), request))[1]
    write_random_markov(tmp_path / "own", target, token_ids=sorted({*plain.token_ids, 298, 299}))
    accepted = 0
    for tree in (None, "chain:length=3", "static:widths=[3,2]"):
        drafter = make(target, tmp_path / "own", tree=tree, **({} if tree else {"min_p": 0.0}))
        found: Generation = whole(generate(target, drafter, Match(), request))[1]
        assert found.token_ids == plain.token_ids
        accepted += found.stats.num_accepted
    assert accepted > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0, accepted are whole numbers from 1 to 65536"),
        ({"min_p": 1.5}, "min_p=1.5, accepted are 0 to 1"),
        ({"min_p": -0.1}, "min_p=-0.1, accepted are 0 to 1"),
        ({"size": "x"}, "size"),
    ],
)
def test_options_out_of_range(
    target: Any, block: MarkovWeights, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OutpaceError, match=message):
        make(target, tmp_path, **options)


def test_the_largest_weights_draft(target: Any, tmp_path: Path) -> None:
    """Scores so far apart that the smallest difference of floats exceeds that of likely tokens."""
    heads = write_random_markov(tmp_path, target)
    tensors = {name: np.where(tensor < 0, -MOST, MOST) for name, tensor in heads.tensors.items()}
    write_markov(tmp_path, MarkovWeights(heads.config, tensors, heads.token_ids))
    for sampling in (Sampling(), Sampling(temperature=0.9, seed=3)):
        request = Request([1, 2, 3], sampling, 8)
        plain: Generation = whole(generate(target, NoDraft(), Match(), request))[1]
        found: Generation = whole(generate(target, make(target, tmp_path), Match(), request))[1]
        assert found.token_ids == plain.token_ids


def test_scores_that_are_no_numbers_name_the_heads(target: Any, tmp_path: Path) -> None:
    write_random_markov(tmp_path, target)
    drafter = make(target, tmp_path)
    no_numbers: Any = lambda states: np.full((len(states), 8), np.nan, np.float32)  # noqa: E731
    drafter._pass._unembed = no_numbers
    with pytest.raises(OutpaceError, match=f"the heads in {tmp_path} give scores that are no numbers"):
        whole(generate(target, drafter, Match(), Request([1, 2, 3], Sampling(), 8)))
