"""EAGLE's drafts against numpy, on texts as they are written: of one row or several, kept or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.call import Call, Prompt  # noqa: E402
from outpace.core.errors import CacheFull, OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling, choose  # noqa: E402
from outpace.core.steps import Ask  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.drafters.heads.eagle import Eagle  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import events, result_of  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads.eagle import EagleWeights, write_eagle  # noqa: E402
from outpace.pricing.pace import Pace, Plan  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.trees import TREES  # noqa: E402
from tests.eagle_heads import EagleTwin, write_random_eagle  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

PROMPTS = [[5, 9, 2, 7, 7, 1, 3], [4, 4]]
LENGTH = 3
GREEDY = Sampling()


@pytest.fixture(scope="module", params=["native", "hf"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "hf":
        return HfCausalTarget(tiny_model("llama", num_hidden_layers=2), context_length=64)
    return gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", context_length=64, kv="f32")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rounded, so that two tokens that are nearly equal cannot change places."""
    monkeypatch.setattr("outpace.targets.native_layer.KIND", "f32")


def make(target: Any, folder: Path, tree: str | None = f"chain:length={LENGTH}") -> Eagle:
    return Eagle(target, path=str(folder), tree=TREES.create(tree, costs=None) if tree else None)


class Watch:
    """A drafter that writes down what another one was asked and has drafted."""

    def __init__(self, drafter: Eagle) -> None:
        self.drafter, self.traits = drafter, drafter.traits
        self.drafts: list[tuple[list[int], int, TokenTree]] = []  # a row's prompt, position of the root, tree
        self.observe, self.stop = drafter.observe, drafter.stop
        self._prompts: dict[int, list[int]] = {}

    def start(self, prompt: Prompt) -> Any:
        state = self.drafter.start(prompt)
        self._prompts[id(state)] = list(prompt)
        return state

    def propose(self, states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        trees = self.drafter.propose(states, asks)
        for state, ask, tree in zip(states, asks, trees, strict=True):
            self.drafts.append((self._prompts[id(state)], ask.position, tree))
        return trees


def run(target: Any, drafter: Any, sampling: Sampling = GREEDY, *, tokens: int) -> list[Generation]:
    """Both prompts, side by side."""
    requests = [Request(prompt, sampling, tokens) for prompt in PROMPTS]
    return result_of(events(target, drafter, Match(), requests))


def texts_of(results: Sequence[Generation]) -> dict[tuple[int, ...], list[int]]:
    """Prompt -> all of the text."""
    pairs = zip(PROMPTS, results, strict=True)
    return {tuple(prompt): [*prompt, *one.token_ids] for prompt, one in pairs}


def states_of(target: Any, text: Sequence[int], taps: Sequence[str]) -> np.ndarray:
    """f32[n, T * D] behind every token."""
    row = target.open()
    scores = target.score([Call.on(row, TokenTree.chain(text[0], text[1:]))])
    found = np.concatenate([scores.hidden(tap) for tap in taps], axis=1)
    target.free([row])
    return found


def drafted(target: Any, heads: EagleWeights, text: Sequence[int], length: int) -> list[int]:
    """The best token, then the best behind it, and so on: by numpy, from all states of a text."""
    ids = np.arange(target.vocab_size)
    twin = EagleTwin(heads, target.input_rows(ids), target.output_rows())
    states = states_of(target, text[:-1], heads.config.taps)
    cache: list[Any] = []
    for token, state in zip(text[1:], states, strict=True):
        output = twin.output(cache, token, twin.feature(state))
    chain: list[int] = []
    while True:
        best = int(twin.logits(output).argmax())
        chain.append(best if heads.token_ids is None else int(heads.token_ids[best]))
        if len(chain) == length:
            return chain
        output = twin.output(cache, chain[-1], twin.behind(output))


@pytest.mark.parametrize("generation", ["eagle3", "eagle"])
def test_drafts_are_those_of_the_equations(target: Any, tmp_path: Path, generation: str) -> None:
    """Whatever was kept before: all states of the text count, those of the prompt included."""
    options: dict[str, Any] = {"num_tokens": 40} if generation == "eagle3" else {}
    heads = write_random_eagle(tmp_path, target, generation=generation, **options)
    watch = Watch(make(target, tmp_path))
    results, plain = (run(target, drafter, tokens=12) for drafter in (watch, NoDraft()))
    assert [one.token_ids for one in results] == [one.token_ids for one in plain]
    texts = texts_of(results)
    count = 0
    for prompt, position, tree in watch.drafts:
        if tree.num_nodes > 1:
            text = texts[tuple(prompt)][: position + 1]
            assert tree.token_list[1:] == drafted(target, heads, text, tree.num_nodes - 1)
            assert position > len(prompt) - 1
            count += 1
    assert count >= 8 and {tuple(prompt) for prompt, _, _ in watch.drafts} == {*map(tuple, PROMPTS)}


def test_rows_that_do_not_fit_into_one_call_draft_in_several(target: Any, tmp_path: Path) -> None:
    """The prompts of two rows are more than a call of the layer holds; so are their trees later on."""
    heads = write_random_eagle(tmp_path, target, num_tokens=40)
    watch = Watch(make(target, tmp_path))
    rows: Any = watch.drafter._layer.rows
    for most, drafting in ((6, PROMPTS[1:]), (7, PROMPTS), (8, PROMPTS)):
        rows.max_nodes = most
        watch.drafts.clear()
        texts = texts_of(run(target, watch, tokens=12))
        found = [one for one in watch.drafts if one[2].num_nodes > 1]
        assert {tuple(prompt) for prompt, _, _ in found} == {*map(tuple, drafting)}
        for prompt, position, tree in found:
            text = texts[tuple(prompt)][: position + 1]
            assert tree.token_list[1:] == drafted(target, heads, text, tree.num_nodes - 1)


def test_what_it_has_missed_is_read_in_chunks(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It drafts only now and then; what was committed meanwhile does not fit into one call."""
    monkeypatch.setattr("outpace.drafters.heads.given.CHUNK", 3)
    heads = write_random_eagle(tmp_path, target)
    watch = Watch(make(target, tmp_path))
    real, calls = watch.drafter.propose, []

    def now_and_then(states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        calls.append(asks)
        return [TokenTree.root(ask.root) for ask in asks] if len(calls) % 6 else real(states, asks)

    monkeypatch.setattr(watch.drafter, "propose", now_and_then)
    texts = texts_of(run(target, watch, tokens=24))
    found = [one for one in watch.drafts if one[2].num_nodes > 1]
    assert found
    for prompt, position, tree in found:
        text = texts[tuple(prompt)][: position + 1]
        assert tree.token_list[1:] == drafted(target, heads, text, tree.num_nodes - 1)


class GivenUp(Pace):
    """Lets nobody draft until so many steps have been made."""

    def __init__(self, drafter: Eagle, steps: int) -> None:
        super().__init__(replace(drafter.traits, paced="always"))
        self.left = steps

    def plan(self, asks: Sequence[Ask], *, lag: int) -> Plan | None:
        plan = super().plan(asks, lag=lag)
        assert plan is not None
        self.left -= 1
        return replace(plan, asks=[replace(ask, depth=min(ask.depth, 3 * (self.left < 0))) for ask in asks])


@pytest.mark.parametrize(("chunk", "fused"), [(256, []), (8, [8, 8, 8, 8])])
def test_while_nobody_drafts_the_layer_rests_and_what_it_has_missed_is_read_in_one_go(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, fused: list[int]
) -> None:
    """Its drafts are then those of the equations, and of a layer that was asked all along."""
    monkeypatch.setattr("outpace.drafters.heads.given.CHUNK", chunk)
    heads = write_random_eagle(tmp_path, target, num_tokens=40)
    watch, pace = Watch(make(target, tmp_path)), None
    layer: Any = watch.drafter._layer
    sizes: dict[str, list[int]] = {"features": [], "inputs": [], "score": []}
    features, inputs, score = layer.features, layer.inputs, layer.rows.score

    def noted(name: str, real: Any, *given: Any) -> Any:
        if pace is not None and pace.left >= 0:
            sizes[name].append(len(given[0]))
        return real(*given)

    monkeypatch.setattr(layer, "features", lambda states: noted("features", features, states))
    monkeypatch.setattr(layer, "inputs", lambda *given: noted("inputs", inputs, *given))
    monkeypatch.setattr(layer.rows, "score", lambda *given: noted("score", score, *given))
    trees = []
    for steps in (0, 30):
        pace = GivenUp(watch.drafter, steps)
        watch.drafts.clear()
        request = Request(PROMPTS[0], GREEDY, 50)
        [result] = result_of(events(target, watch, Match(), [request], pace=pace))
        trees.append({position: tree.token_list[1:] for _, position, tree in watch.drafts})
    assert sizes == {"features": fused, "inputs": [], "score": []}
    often, late = trees
    assert min(late) == len(PROMPTS[0]) - 1 + 30 and len(late) > 8
    common = late.keys() & often.keys()
    assert min(late) + 3 > min(common) and all(late[at] == often[at] for at in common)
    text = [*PROMPTS[0], *result.token_ids]
    for at, tokens in late.items():
        assert tokens == drafted(target, heads, text[: at + 1], len(tokens))


def test_sampled_drafts_carry_the_targets_noise(target: Any, tmp_path: Path) -> None:
    """A layer that adds nothing to the states: it drafts what the target would say of them, by its noise."""
    heads = write_random_eagle(tmp_path, target, generation="eagle")
    for name, tensor in heads.tensors.items():
        tensor[:] = 0
        if name == "fc.weight":
            tensor[:, target.hidden_size :] = np.eye(target.hidden_size)
    write_eagle(tmp_path, heads)
    sampling = Sampling(temperature=0.9, seed=3)
    watch = Watch(make(target, tmp_path, "chain:length=1"))
    texts = texts_of(run(target, watch, sampling, tokens=12))
    found = [one for one in watch.drafts if one[2].num_nodes > 1]
    assert len(found) > 8
    for prompt, position, tree in found:
        states = states_of(target, texts[tuple(prompt)][:position], ["final"])
        wanted = choose(target.projection()(states[-1:]), sampling, [position + 1])
        assert tree.token_list[1:] == wanted


def test_trees_stay_within_budget_and_depth(target: Any, tmp_path: Path) -> None:
    write_random_eagle(tmp_path, target)
    watch = Watch(make(target, tmp_path, "dynamic:size=6,k=3,depth=3"))
    run(target, watch, tokens=10)
    sizes = [tree.num_nodes - 1 for _, _, tree in watch.drafts]
    assert max(sizes) == 6 and max(tree.shape.height for _, _, tree in watch.drafts) <= 3
    widths = [len(tree.children(0)) for _, _, tree in watch.drafts if tree.num_nodes > 1]
    assert max(widths) > 1


def test_rows_are_given_back_and_no_room_is_no_draft(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random_eagle(tmp_path, target)
    drafter = make(target, tmp_path)
    opened, freed = [], []
    layer: Any = drafter._layer.rows
    real_open, real_free = layer.open, layer.free
    layer.open = lambda: opened.append(real_open()) or opened[-1]
    layer.free = lambda row: freed.append(row) or real_free(row)
    run(target, drafter, tokens=6)
    assert opened and sorted(opened) == sorted(freed)

    def full(*args: Any) -> Any:
        raise CacheFull("full")

    layer.score = full
    for chunk in (256, 3):  # the first call that is full is a draft's, or one that only reads
        monkeypatch.setattr("outpace.drafters.heads.given.CHUNK", chunk)
        results, plain = (run(target, one, tokens=6) for one in (drafter, NoDraft()))
        assert [one.token_ids for one in results] == [one.token_ids for one in plain]
        assert sum(one.stats.num_drafted for one in results) == 0 and sorted(opened) == sorted(freed)


def test_heads_that_are_missing_are_named(target: Any) -> None:
    with pytest.raises(OutpaceError, match="accepted is eagle:path=FOLDER"):
        Eagle(target)
