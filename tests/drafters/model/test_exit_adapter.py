"""Early exit with an adapter: drafts are those of the equations, whatever was kept before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from outpace.core.errors import CacheFull, OutpaceError
from outpace.core.sampling import Sampling, choose
from outpace.core.steps import Ask
from outpace.core.tree import TokenTree
from outpace.drafters.model.early_exit import EarlyExit, early_exit
from outpace.drafters.model.exit_adapter import AdaptedExit
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, result_of
from outpace.engine.request import Generation, Request
from outpace.heads.exit_adapter import AdapterWeights, write_adapter
from outpace.rules.match import Match
from outpace.trees import TREES
from tests.exit_adapters import adapted, exit_states, write_random_adapter
from tests.native_models import gguf_target

PROMPTS = [[5, 9, 2, 7, 7, 1, 3], [4, 4]]
SAMPLINGS = [Sampling(), Sampling(temperature=0.9, top_k=40, seed=3)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", context_length=64, kv="f32")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rounded, so that two tokens that are nearly equal cannot change places."""
    monkeypatch.setattr("outpace.targets.native_layer.KIND", "f32")


class Watch:
    """The drafter, with all that it was asked for, and its trees."""

    def __init__(self, drafter: Any) -> None:
        self.drafter, self.traits = drafter, drafter.traits
        self.start, self.observe, self.stop = drafter.start, drafter.observe, drafter.stop
        self.drafts: list[tuple[Ask, TokenTree]] = []

    def propose(self, states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        trees: list[TokenTree] = self.drafter.propose(states, asks)
        self.drafts += zip(asks, trees, strict=True)
        return trees


def make(target: Any, folder: Path, tree: str = "chain:length=3") -> AdaptedExit:
    drafter = early_exit(target, path=str(folder), tree=TREES.create(tree, costs=None))
    assert isinstance(drafter, AdaptedExit)
    return drafter


def run(target: Any, drafter: Any, sampling: Sampling = SAMPLINGS[0], tokens: int = 14) -> list[Generation]:
    """Both prompts, side by side; texts are those of plain decoding."""
    requests = [Request(prompt, sampling, tokens) for prompt in PROMPTS]
    found, plain = (result_of(events(target, one, Match(), requests)) for one in (drafter, NoDraft()))
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]
    return found


def logits_behind(target: Any, weights: AdapterWeights, text: Sequence[int]) -> np.ndarray:
    """f64[V], from the states of the whole text, all of them anew."""
    y = adapted(weights, exit_states(target, text, weights.config.layers))[-1]
    logits = target.output_rows().astype(np.float64) @ y
    if weights.token_ids is not None:
        logits[np.setdiff1d(np.arange(len(logits)), weights.token_ids)] = -np.inf
    return logits.astype(np.float32)


def check(target: Any, weights: AdapterWeights, watch: Watch, results: list[Generation], least: int) -> None:
    """Every drafted token is the choice of the adapter's law by the target's own noise."""
    texts = [[*prompt, *one.token_ids] for prompt, one in zip(PROMPTS, results, strict=True)]
    count = 0
    for ask, tree in watch.drafts:
        whole = [text for text in texts if text[ask.position : ask.position + 1] == [ask.root]]
        for node in range(1, tree.num_nodes):
            path = [tree.token_list[one] for one in tree.path_to(node)]
            wanted = [
                choose(
                    logits_behind(target, weights, [*text[: ask.position], *path[:-1]])[None],
                    ask.sampling,
                    [ask.position + len(path) - 1],
                )[0]
                for text in whole
            ]
            assert path[-1] in wanted
            count += 1
    assert count >= least


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("ids", [None, range(3, 90)], ids=["all", "trimmed"])
def test_drafts_are_those_of_the_equations(
    target: Any, tmp_path: Path, sampling: Sampling, ids: Sequence[int] | None
) -> None:
    """All states of the text count, those of the prompt included; sampled drafts carry the target's noise."""
    weights = write_random_adapter(tmp_path, target, layers=2, token_ids=ids)
    watch = Watch(make(target, tmp_path))
    check(target, weights, watch, run(target, watch, sampling), 20)


def test_what_it_has_missed_is_read_in_chunks(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outpace.drafters.heads.given.CHUNK", 3)
    weights = write_random_adapter(tmp_path, target)
    watch = Watch(make(target, tmp_path))
    real, calls = watch.drafter.propose, []

    def now_and_then(states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        calls.append(asks)
        return [TokenTree.root(ask.root) for ask in asks] if len(calls) % 5 else real(states, asks)

    monkeypatch.setattr(watch.drafter, "propose", now_and_then)
    check(target, weights, watch, run(target, watch, tokens=24), 6)


def test_an_adapter_that_adds_nothing_drafts_as_the_bare_exit(target: Any, tmp_path: Path) -> None:
    weights = write_random_adapter(tmp_path, target, layers=2)
    weights.tensors["self_attn.o_proj.weight"][:] = 0
    write_adapter(tmp_path, weights)
    bare = EarlyExit(layers=2, tree=TREES.create("chain:length=3", costs=None), target=target)
    found = []
    for drafter in (make(target, tmp_path), bare):
        watch = Watch(drafter)
        run(target, watch)
        texts = {
            (ask.position, ask.root): tree.token_list for ask, tree in watch.drafts if tree.num_nodes > 1
        }
        found.append(texts)
    both = found[0].keys() & found[1].keys()
    assert len(both) > 4 and all(found[0][one] == found[1][one] for one in both)


def test_a_level_runs_its_own_tokens_alone(target: Any, tmp_path: Path) -> None:
    """Through the first layers: what stands before them has been run."""
    write_random_adapter(tmp_path, target, layers=2)
    drafter = make(target, tmp_path, "chain:length=3")
    real, works = target.run, []

    def counted(*args: Any, **options: Any) -> Any:
        scores = real(*args, **options)
        works.append(target._decoder.work)
        return scores

    target.run = counted
    try:
        result_of(events(target, drafter, Match(), [Request(PROMPTS[0], Sampling(), 9)]))
    finally:
        del target.run
    assert len(works) > 3 and {*works} == {2 * 2}


def test_it_stops_where_it_is_unsure(target: Any, tmp_path: Path) -> None:
    """The paper's threshold, by default; a random adapter is sure of little."""
    write_random_adapter(tmp_path, target)
    drafter = early_exit(target, path=str(tmp_path))
    assert isinstance(drafter, AdaptedExit) and not drafter.traits.branches
    drafted = [
        sum(one.stats.num_drafted for one in run(target, make(target, tmp_path, tree)))
        for tree in ("chain:length=6", "chain:length=6,min_p=0.6", "chain:length=6,min_p=1")
    ]
    assert drafted[0] > drafted[1] >= drafted[2] == 0
    assert drafted[1] == sum(one.stats.num_drafted for one in run(target, drafter))


def test_trees_and_rows(target: Any, tmp_path: Path) -> None:
    """Trees that branch, of rows that do not fit into one call; places in the layer are given back."""
    weights = write_random_adapter(tmp_path, target, layers=2)
    drafter = make(target, tmp_path, "static:widths=[2,2]")
    layer: Any = drafter._adapter.rows
    opened, freed = [], []
    real_open, real_free = layer.open, layer.free
    layer.open = lambda: opened.append(real_open()) or opened[-1]
    layer.free = lambda row: freed.append(row) or real_free(row)
    for most in (layer.max_nodes, 8):
        layer.max_nodes = most
        watch = Watch(drafter)
        results = run(target, watch, tokens=8)
        texts = [[*prompt, *one.token_ids] for prompt, one in zip(PROMPTS, results, strict=True)]
        grown = [(ask, tree) for ask, tree in watch.drafts if tree.num_nodes > 1]
        assert grown
        for ask, tree in grown:
            whole = [text for text in texts if text[ask.position : ask.position + 1] == [ask.root]]
            for node in range(tree.num_nodes):
                if kids := [tree.token_list[kid] for kid in tree.children(node)]:
                    path = [tree.token_list[one] for one in tree.path_to(node)]
                    logits = [
                        logits_behind(target, weights, [*text[: ask.position], *path]) for text in whole
                    ]
                    assert kids in [np.argsort(-one)[: len(kids)].tolist() for one in logits]
    assert opened and sorted(opened) == sorted(freed)


def test_no_room_is_no_draft(target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random_adapter(tmp_path, target)
    drafter = make(target, tmp_path)
    layer: Any = drafter._adapter.rows

    def full(*args: Any) -> Any:
        raise CacheFull("full")

    layer.score = full
    for chunk in (256, 3):  # the first call that is full is a draft's, or one that only reads
        monkeypatch.setattr("outpace.drafters.heads.given.CHUNK", chunk)
        assert sum(one.stats.num_drafted for one in run(target, drafter, tokens=6)) == 0


def test_options(target: Any, tmp_path: Path) -> None:
    write_random_adapter(tmp_path, target)
    assert isinstance(early_exit(target, layers=1), EarlyExit)
    assert isinstance(early_exit(target, lambda method: tmp_path, path="auto"), AdaptedExit)
    with pytest.raises(OutpaceError, match="layers=1, loops=0 and a path, accepted is one of them"):
        early_exit(target, layers=1, path=str(tmp_path))
    with pytest.raises(OutpaceError, match="accepted is early_exit:path=FOLDER"):
        early_exit(target, path="auto")
