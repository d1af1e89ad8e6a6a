"""Blockwise heads against a twin in numpy, and what is drafted with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.call import Prompt  # noqa: E402
from outpace.core.sampling import Sampling, choose, warp  # noqa: E402
from outpace.core.steps import Ask, RowScores, ScoredCall, Step, Verdict  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.drafters.heads.blockwise import Blockwise  # noqa: E402
from outpace.drafters.heads.independent import RANKS  # noqa: E402
from outpace.drafters.heads.last_state import HeadsState  # noqa: E402
from outpace.files.packing import unpack  # noqa: E402
from outpace.heads.proposals import ProposalHeads  # noqa: E402
from outpace.pricing.costs import straight  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.trees import TREES  # noqa: E402
from outpace.trees.grow import grow_trees, point_law  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import OneSource, tiny_seq2seq  # noqa: E402
from tests.made_heads import (  # noqa: E402
    head_states,
    states_of,
    write_random,
)
from tests.native_models import gguf_target  # noqa: E402

SAMPLED = Sampling(temperature=0.8, top_p=0.95, seed=4)
SAMPLINGS = [Sampling(), SAMPLED]


def hf_causal(folder: Path) -> Any:
    return HfCausalTarget(tiny_model("gpt2", num_hidden_layers=1), context_length=64)


def hf_seq2seq(folder: Path) -> Any:
    """Its output matrix has a bias of its own."""
    model = tiny_seq2seq("marian", encoder_layers=1, decoder_layers=1)
    with torch.no_grad():
        model.final_logits_bias.copy_(torch.linspace(-2, 2, model.final_logits_bias.numel())[None])
    return OneSource(model, context_length=64)


def native_f32(folder: Path) -> Any:
    return gguf_target(folder, "llama", "F32", context_length=64)


def native_q8(folder: Path) -> Any:
    return gguf_target(folder, "llama", "Q8_0", context_length=64)


TARGETS: list[Callable[[Path], Any]] = [hf_causal, hf_seq2seq, native_f32, native_q8]
EXACT = TARGETS[:3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Any]], Any]:
    """One target of each kind."""
    targets: dict[Any, Any] = {}

    def make(factory: Callable[[Path], Any]) -> Any:
        if factory not in targets:
            targets[factory] = factory(tmp_path_factory.mktemp(factory.__name__))
        return targets[factory]

    return make


@pytest.fixture(params=TARGETS, ids=lambda factory: factory.__name__)
def target(request: pytest.FixtureRequest, made: Callable[..., Any]) -> Any:
    return made(request.param)


@pytest.fixture
def causal(made: Callable[..., Any]) -> Any:
    return made(hf_causal)


def unembedded(target: Any, states: np.ndarray) -> np.ndarray:
    """f64[..., V]: what the model's own output matrix makes of states, by numpy."""
    weight, bias = output_of(target)
    return states @ weight.astype(np.float64).T + bias


def output_of(target: Any) -> tuple[np.ndarray, Any]:
    """(f32[V, D], its bias)."""
    if not hasattr(target, "model"):
        name = "output" if "output" in target.weights.tensors else "embed"
        return unpack(target.weights.tensors[name], target.weights.buffer)[: target.vocab_size], 0.0
    bias = getattr(target.model, "final_logits_bias", None)
    weight = target.model.get_output_embeddings().weight.detach().numpy()
    return weight, 0.0 if bias is None else bias.numpy()


@pytest.mark.parametrize("first", ["identity", "learned"])
@pytest.mark.parametrize("token_ids", [None, [0, 3, 77, 150, 255, 299]])
def test_logits_are_those_of_the_paper(
    target: Any, made: Callable[..., Any], tmp_path: Path, first: Any, token_ids: Any
) -> None:
    heads = write_random(tmp_path, target, num_heads=4, width=5, first=first, token_ids=token_ids)
    states = states_of(target, [5, 17, 3, 250, 9])
    # Head 1 is the model's own, learned or not: it has chosen already.
    expected = unembedded(target, head_states(heads, states)[:, -3:])
    expected = expected if token_ids is None else expected[..., token_ids]
    logits = ProposalHeads(target, tmp_path).logits(states)
    assert logits.shape == expected.shape == (5, 3, 300 if token_ids is None else 6)
    tolerance = 1e-5 if target is made(native_f32) else 0.03  # others round heads to 8 bit
    assert np.abs(logits - expected).max() < tolerance * np.abs(expected).max()


def test_the_first_of_the_heads_are_used(causal: Any, tmp_path: Path) -> None:
    for first in ("identity", "learned"):
        write_random(tmp_path / first, causal, num_heads=4, first=first)
        states = states_of(causal, [5, 17, 3])
        every = ProposalHeads(causal, tmp_path / first).logits(states)
        for num_heads in (2, 3, 4):
            some = ProposalHeads(causal, tmp_path / first, num_heads=num_heads)
            assert some.num_drafted == num_heads - 1
            np.testing.assert_allclose(some.logits(states), every[:, : num_heads - 1], rtol=1e-5, atol=1e-5)


def test_states_do_not_see_one_another(target: Any, tmp_path: Path) -> None:
    write_random(tmp_path, target)
    heads, states = ProposalHeads(target, tmp_path), states_of(target, [5, 17, 3])
    alone = np.concatenate([heads.logits(state[None]) for state in states])
    if not hasattr(target, "model"):
        np.testing.assert_array_equal(heads.logits(states), alone)
    np.testing.assert_allclose(heads.logits(states), alone, rtol=1e-4, atol=1e-4)


def make(target: Any, folder: Path, *, tree: str | None = None, **options: Any) -> Blockwise:
    policy = TREES.create(tree, costs=None) if tree else None
    return Blockwise(target, path=str(folder), tree=policy, **options)


def test_a_shape_that_is_to_pay_is_paced(target: Any, tmp_path: Path) -> None:
    write_random(tmp_path, target)
    priced = TREES.create("survival:beta=auto", costs=lambda: straight(0.1))
    made = [Blockwise(target, path=str(tmp_path), tree=shape) for shape in (None, priced)]
    assert [one.traits.paced for one in made] == ["shared", "always"]
    assert make(target, tmp_path, tree="survival:beta=0.1").traits.paced == "never"


def proposed(drafter: Blockwise, states: np.ndarray, root: int, **asked: Any) -> list[TokenTree]:
    """What is drafted behind these states f32[n, D]."""
    rows = []
    for hidden in states:
        rows.append(HeadsState())
        rows[-1].hidden = hidden
    fields: dict[str, Any] = {"sampling": Sampling(), "budget": 60, "depth": 20, "law": False} | asked
    return drafter.propose(rows, [Ask(root, 9, **fields)] * len(rows))


def test_the_chain_is_the_best_of_every_head(causal: Any, tmp_path: Path) -> None:
    """Which is the paper's draft."""
    write_random(tmp_path, causal, num_heads=5)
    states = states_of(causal, [5, 17, 3])
    logits = ProposalHeads(causal, tmp_path).logits(states)
    drafter = make(causal, tmp_path, tree="chain:length=9")
    trees = proposed(drafter, states, 3)
    assert [tree.token_list for tree in trees] == [[3, *row] for row in logits.argmax(axis=2).tolist()]
    assert all(tree.shape.parent_list == [-1, 0, 1, 2, 3] for tree in trees)
    short = proposed(make(causal, tmp_path, tree="chain:length=9", heads=3), states, 3)
    assert [tree.token_list for tree in short] == [tree.token_list[:3] for tree in trees]
    assert [tree.num_nodes for tree in proposed(drafter, states, 3, depth=2)] == [3, 3, 3]
    assert [tree.num_nodes for tree in proposed(drafter, states, 3, budget=1)] == [2, 2, 2]


@pytest.mark.parametrize("near", [1, 2, 9])
@pytest.mark.parametrize("token_ids", [None, range(40, 60)])
def test_near_drafts_where_most_probability_is(
    causal: Any, tmp_path: Path, near: int, token_ids: Any
) -> None:
    """Against sums of the laws, one by one; ids beyond the first and the last have none."""
    write_random(tmp_path, causal, num_heads=5, token_ids=token_ids and list(token_ids))
    states, heads = states_of(causal, [5, 17, 3]), ProposalHeads(causal, tmp_path)
    trees = proposed(make(causal, tmp_path, tree="chain:length=4", near=near), states, 3)
    best = proposed(make(causal, tmp_path, tree="chain:length=4"), states, 3)
    assert [tree.token_list for tree in trees] != [tree.token_list for tree in best]
    for tree, logits in zip(trees, heads.logits(states).astype(np.float64), strict=True):
        for token, law in zip(tree.token_list[1:], np.exp(logits), strict=True):
            sums = [law[max(0, at - near) : at + near + 1].sum() for at in range(len(law))]
            # Windows around one large probability have nearly equal sums.
            assert sums[token - (40 if token_ids else 0)] > max(sums) * (1 - 1e-5)


@pytest.mark.parametrize("sampling", [*SAMPLINGS, Sampling(temperature=2.0, top_k=3, seed=1)], ids=str)
@pytest.mark.parametrize("token_ids", [None, [0, 3, 8, 77, 150, 255, 256, 299]])
def test_a_chain_is_what_the_growth_loop_makes(
    causal: Any, tmp_path: Path, sampling: Sampling, token_ids: Any
) -> None:
    write_random(tmp_path, causal, num_heads=5, token_ids=token_ids)
    states = states_of(causal, [5, 17, 3])
    for length, budget, depth in itertools.product((1, 3, 4, 9), (0, 2, 60), (1, 3, 20)):
        drafter = make(causal, tmp_path, tree=f"chain:length={length}")
        chains = proposed(drafter, states, 3, sampling=sampling, budget=budget, depth=depth)
        rows = [HeadsState() for _ in states]
        for row, hidden in zip(rows, states, strict=True):
            row.hidden = hidden
        asks = [Ask(3, 9, sampling, budget, depth, law=False)] * len(rows)
        grown = grow_trees(asks, drafter.policy, drafter.step(rows))
        assert [tree.token_list for tree in chains] == [tree.token_list for tree in grown]
        assert all(tree.is_chain and tree.draw == "point" for tree in chains)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_with_sampling_heads_draft_the_sample_itself(causal: Any, tmp_path: Path, sampling: Sampling) -> None:
    """If heads were right, they would choose what the target chooses with its noise at each place."""
    write_random(tmp_path, causal)
    states = states_of(causal, [5, 17, 3])
    logits = ProposalHeads(causal, tmp_path).logits(states)
    chains = proposed(make(causal, tmp_path, tree="chain"), states, 3, sampling=sampling)
    trees = proposed(make(causal, tmp_path, size=4, min_p=0), states, 3, sampling=sampling)
    for row, chain, tree in zip(logits, chains, trees, strict=True):
        chosen = choose(row, sampling, [10, 11, 12])
        assert chain.token_list[1:] == chosen
        assert tree.token_list[1] == chosen[0]


def test_the_tree_holds_the_likeliest_combinations(causal: Any, tmp_path: Path) -> None:
    write_random(tmp_path, causal, num_heads=3)
    states = states_of(causal, [5, 17, 3])
    logits = ProposalHeads(causal, tmp_path).logits(states)
    for sampling in SAMPLINGS:
        trees = proposed(make(causal, tmp_path, size=7, min_p=0), states, 3, sampling=sampling)
        for row, tree in zip(logits, trees, strict=True):
            weights: dict[tuple[int, ...], float] = {(): 1.0}
            for depth, ahead in enumerate(row):
                best, law = point_law(ahead, sampling, 10 + depth, RANKS)
                weights |= {
                    (*path, int(t)): w * law[t]
                    for path, w in weights.items()
                    if len(path) == depth
                    for t in best
                }
            likeliest = sorted((p for p in weights if p), key=lambda p: -weights[p])[:7]
            paths = [tuple(tree.token_list[i] for i in tree.path_to(n)[1:]) for n in range(1, 8)]
            assert set(paths) == set(likeliest)
            assert tree.logq is not None
            sums = [tree.logq[tree.path_to(n)].sum() for n in range(1, 8)]
            np.testing.assert_allclose(np.exp(sums), [weights[p] for p in paths], rtol=1e-4)
            floor = weights[paths[2]]
            few = proposed(make(causal, tmp_path, size=7, min_p=floor * 0.999), states, 3, sampling=sampling)
            assert any(tree.token_list[:4] == other.token_list for other in few)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("tree", [None, "chain", "static:widths=[2,1]"])
def test_a_trimmed_vocabulary_changes_numbers_alone(
    causal: Any, tmp_path: Path, tree: str | None, sampling: Sampling
) -> None:
    """Heads over some tokens draft as heads over all of them whose other tokens have no probability."""
    ids = [0, 3, 8, 77, 150, 255, 256, 299]
    write_random(tmp_path, causal, token_ids=ids)
    states = states_of(causal, [5, 17, 3])
    heads = ProposalHeads(causal, tmp_path)
    whole = heads.whole(heads.logits(states)[0])
    assert whole.shape == (3, 300) and np.isneginf(np.delete(whole, ids, axis=1)).all()
    drafter = make(causal, tmp_path, tree=tree, **({} if tree else {"min_p": 0.0}))
    trimmed = proposed(drafter, states, 3, sampling=sampling)
    assert all(set(t.token_list[1:]) <= set(ids) and t.num_nodes > 3 for t in trimmed)
    drafter._heads = Spread(heads)  # type: ignore[assignment]
    spread = proposed(drafter, states, 3, sampling=sampling)
    assert [t.token_list for t in spread] == [t.token_list for t in trimmed]
    for one, other in zip(spread, trimmed, strict=True):
        if one.logq is not None and other.logq is not None:
            np.testing.assert_allclose(one.logq, other.logq, rtol=1e-5)


class Spread:
    """Trimmed heads that give logits of the whole vocabulary."""

    token_ids = None

    def __init__(self, heads: ProposalHeads) -> None:
        self.heads = heads
        self.num_drafted = heads.num_drafted

    def logits(self, states: np.ndarray) -> np.ndarray:
        trimmed = self.heads.logits(states)
        return np.stack([self.heads.whole(row) for row in trimmed])

    def whole(self, logits: np.ndarray) -> np.ndarray:
        return logits


@pytest.mark.parametrize("draw", ["iid", "without_replacement"])
@pytest.mark.parametrize("tree", ["chain:length=3", "static:widths=[2,2]"])
def test_a_rule_that_reads_laws_gets_those_of_the_heads(
    causal: Any, tmp_path: Path, tree: str, draw: Any
) -> None:
    write_random(tmp_path, causal)
    state = states_of(causal, [5, 17, 3])[2:]
    logits = ProposalHeads(causal, tmp_path).logits(state)[0]
    drafter = make(causal, tmp_path, tree=tree)
    assert draw in drafter.traits.draws
    [drawn] = proposed(drafter, state, 3, sampling=SAMPLED, law=True, draw=draw)
    assert drawn.draw == draw
    inner = set(drawn.shape.parent_list[1:])
    assert len(inner) >= 3
    for node in inner:
        law, expected = drawn.law(node), warp(logits[drawn.shape.depths[node]], SAMPLED)
        assert law is not None
        np.testing.assert_allclose(law, expected, rtol=1e-5)
    [greedy] = proposed(drafter, state, 3, law=True, draw=draw)
    assert greedy.draw == "point"


class Shown:
    """Scores that are hidden states."""

    def __init__(self, states: np.ndarray) -> None:
        self.states = states

    def hidden(self, tap: str) -> np.ndarray:
        assert tap == "final"
        return self.states


def test_it_goes_on_from_the_last_kept_node(causal: Any, tmp_path: Path) -> None:
    write_random(tmp_path, causal)
    drafter = make(causal, tmp_path)
    tree, behind = TokenTree([5, 6, 7, 8], [-1, 0, 0, 2]), np.arange(16.0).reshape(8, 2)
    trees = [TokenTree.chain(1, [2, 3, 4]), tree]
    asks = [Ask(t.token_list[0], 0, Sampling(), 9, 9) for t in trees]
    scores: Any = Shown(behind)
    call = ScoredCall(scores, trees, asks)
    state = drafter.start(Prompt.of([1, 5]))
    for path, token in (([], 9), ([1], 8), ([2], 7), ([2, 3], 6)):
        step = Step(tree, RowScores(call, 1), Verdict(path, token, "identical"))
        [state] = drafter.observe([state], [step])
        assert state.hidden is not None
        assert state.hidden.tolist() == behind[4 + (path[-1] if path else 0)].tolist()
