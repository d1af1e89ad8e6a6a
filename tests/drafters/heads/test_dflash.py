"""DFlash's drafts against numpy, on texts as they are written: of one row or several, kept or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.call import Call, Prompt  # noqa: E402
from outpace.core.edits import Edit  # noqa: E402
from outpace.core.errors import CacheFull, OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling, warp  # noqa: E402
from outpace.core.steps import Ask, RowScores, ScoredCall, Step, Verdict  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.drafters.heads.blocks import RANKS  # noqa: E402
from outpace.drafters.heads.dflash import DFlash  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import events, result_of  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads.dflash import DFlashWeights, write_dflash  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.trees import TREES  # noqa: E402
from outpace.trees.grow import point_law  # noqa: E402
from tests.dflash_heads import DFlashTwin, dflash_config, random_dflash, write_random_dflash  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

PROMPTS = [[5, 9, 2, 7, 7, 1, 3], [4, 4]]
IDS = [*range(0, 80, 2), 7]
GREEDY, SAMPLED = Sampling(), Sampling(temperature=0.9, seed=3)
KINDS: dict[str, dict[str, Any]] = {
    "dflash": {},
    "reduced": {"token_ids": sorted(IDS), "causal": (False, True), "windows": (0, 4)},
    "dspark": {"from_root": True, "markov": "gated", "rank": 16},
    "rnn": {"from_root": True, "markov": "rnn", "rank": 16, "block_size": 3},
}


@pytest.fixture(scope="module", params=["native", "hf"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "hf":
        return HfCausalTarget(tiny_model("llama", num_hidden_layers=2), context_length=64)
    return gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", context_length=64, kv="f32")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rounded, so that two tokens that are nearly equal cannot change places."""
    monkeypatch.setattr("outpace.targets.native_layer.KIND", "f32")
    monkeypatch.setattr("outpace.targets.hf_products.TorchProduct.rounded", lambda product: product)


def make(target: Any, folder: Path, tree: str | None = None, **options: Any) -> DFlash:
    shape = TREES.create(tree, costs=None) if tree else None
    return DFlash(target, path=str(folder), tree=shape, **options)


class Watch:
    """A drafter that writes down what another one was asked and has drafted."""

    def __init__(self, drafter: DFlash) -> None:
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


class Reference:
    """Drafts by numpy, from all states of a text."""

    def __init__(self, target: Any, heads: DFlashWeights) -> None:
        target.tap(*heads.config.taps)  # it may be asked before any drafter
        ids = np.arange(target.vocab_size)
        self._target, self._taps = target, heads.config.taps
        self.twin = DFlashTwin(heads, target.input_rows(ids), target.output_rows())

    def states(self, text: Sequence[int]) -> np.ndarray:
        """f32[n, T * D] at every token."""
        row = self._target.open()
        scores = self._target.score([Call.on(row, TokenTree.chain(text[0], text[1:]))])
        found = np.concatenate([scores.hidden(tap) for tap in self._taps], axis=1)
        self._target.free([row])
        return found

    def chain(self, text: Sequence[int], length: int) -> list[int]:
        """The best tokens behind a text, whose last token is the root."""
        return self.twin.chain(self.states(text[:-1]), text[-1], length)


def check(watch: Watch, reference: Reference, results: Sequence[Generation], length: int) -> int:
    """Every draft that was made is the reference's chain; returns how many there are."""
    texts = {tuple(p): [*p, *one.token_ids] for p, one in zip(PROMPTS, results, strict=True)}
    found = [one for one in watch.drafts if one[2].num_nodes > 1]
    for prompt, position, tree in found:
        text = texts[tuple(prompt)][: position + 1]
        assert tree.token_list[1:] == reference.chain(text, tree.num_nodes - 1)
        assert tree.num_nodes - 1 <= length and position > len(prompt) - 1
    return len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_are_those_of_the_equations(target: Any, tmp_path: Path, kind: str) -> None:
    """Whatever was kept before: all states of the text count, those of the prompt included."""
    heads = write_random_dflash(tmp_path, target, **KINDS[kind])
    watch = Watch(make(target, tmp_path, "chain:length=9"))
    results, plain = (run(target, drafter, tokens=12) for drafter in (watch, NoDraft()))
    assert [one.token_ids for one in results] == [one.token_ids for one in plain]
    assert check(watch, Reference(target, heads), results, heads.config.length) >= 8
    assert max(tree.num_nodes - 1 for _, _, tree in watch.drafts) == heads.config.length


def test_rows_that_do_not_fit_into_one_call_draft_in_several(target: Any, tmp_path: Path) -> None:
    """The prompts of two rows and their blocks are more than a call of a layer holds."""
    heads = write_random_dflash(tmp_path, target)
    watch, reference = Watch(make(target, tmp_path, "chain:length=3")), Reference(target, heads)
    for most, drafting in ((8, PROMPTS[1:]), (12, PROMPTS), (100, PROMPTS)):
        watch.drafter._pass.max_nodes = most
        watch.drafts.clear()
        assert check(watch, reference, run(target, watch, tokens=12), 3)
        assert {tuple(p) for p, _, tree in watch.drafts if tree.num_nodes > 1} == {*map(tuple, drafting)}


def test_what_it_has_missed_is_read_in_chunks(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It drafts only now and then; what was committed meanwhile does not fit into one call."""
    monkeypatch.setattr("outpace.drafters.heads.given.CHUNK", 3)
    heads = write_random_dflash(tmp_path, target)
    watch = Watch(make(target, tmp_path, "chain:length=3"))
    real, calls = watch.drafter.propose, []

    def now_and_then(states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        calls.append(asks)
        return [TokenTree.root(ask.root) for ask in asks] if len(calls) % 6 else real(states, asks)

    monkeypatch.setattr(watch.drafter, "propose", now_and_then)
    assert check(watch, Reference(target, heads), run(target, watch, tokens=24), 3)


def started(target: Any, drafter: DFlash, text: Sequence[int]) -> Any:
    """The state of a row after the call that has read all of a text but its last token."""
    state = drafter.start(Prompt.of(text[:-1]))
    row = target.open()
    tree = TokenTree.root(text[-2])
    scores = target.score([Call(row, text[:-1], tree)])
    call = ScoredCall(scores, [tree], [Ask(text[-2], len(text) - 2, GREEDY, 9, 9)])
    [state] = drafter.observe([state], [Step(tree, RowScores(call, 0), Verdict([], text[-1], "identical"))])
    target.free([row])
    return state


def proposed(drafter: DFlash, state: Any, text: Sequence[int], **asked: Any) -> TokenTree:
    fields: dict[str, Any] = {"sampling": GREEDY, "budget": 9, "depth": 9, "law": False} | asked
    [tree] = drafter.propose([state], [Ask(text[-1], len(text) - 1, **fields)])
    return tree


TEXT = [5, 9, 2, 7, 7, 1, 3]


WRONG: dict[str, dict[str, Any]] = {
    "nothing": {},
    "causal": {"causal": (True, True)},
    "the other taps": {"taps": ("final", "0")},
    "the slot behind": {"from_root": True},
    "the states of the token before": {},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_read_wrongly_gives_other_logits(target: Any, tmp_path: Path, wrong: str) -> None:
    """By much more than what is read well differs from the equations."""
    heads = write_random_dflash(tmp_path, target)
    drafter = make(target, tmp_path)
    config = replace(heads.config, **WRONG[wrong])
    reference = Reference(target, DFlashWeights(config, heads.tensors, None))
    states = reference.states(TEXT[:-1])
    if wrong == "the states of the token before":
        states = states[:-1]
    state, ask = started(target, drafter, TEXT), Ask(TEXT[-1], len(TEXT) - 1, GREEDY, 9, 9)
    assert drafter._is_able(state)
    [block] = drafter._made([state], [ask], [9])
    assert block is not None
    error = np.abs(block.law(0, None) - reference.twin.laws(states, TEXT[-1])).max()
    assert error < 2e-3 if wrong == "nothing" else error > 0.02


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_likeliest_paths_of_a_block(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, sampling: Sampling
) -> None:
    """By all paths of the likeliest tokens, whose odds are products of laws with the target's noise."""
    monkeypatch.setattr("outpace.heads.dflash_pass.NEAR", 99.0)
    monkeypatch.setattr("outpace.heads.dflash_pass.CANDIDATES", 999)
    heads = write_random_dflash(tmp_path, target, **KINDS[kind])
    reference, length = Reference(target, heads), heads.config.length
    states = reference.states(TEXT[:-1])
    ids = np.arange(target.vocab_size) if heads.token_ids is None else heads.token_ids
    drafter = make(target, tmp_path, size=7, min_p=0.0)
    tree = proposed(drafter, started(target, drafter, TEXT), TEXT, sampling=sampling, depth=3)
    odds: dict[tuple[int, ...], float] = {(): 1.0}
    for depth in range(min(length, 3)):
        for path in [one for one in odds if len(one) == depth]:
            logits = reference.twin.laws(states, TEXT[-1], path)
            best, law = point_law(logits, sampling, len(TEXT) + depth, RANKS, ids)
            for at in best[:7]:
                odds[*path, int(ids[at])] = odds[path] * law[at]
    wanted = sorted(odds, key=lambda path: -odds[path])[1:8]
    found = [tuple(tree.token_list[one] for one in tree.path_to(node)[1:]) for node in range(1, 8)]
    assert found == wanted
    floor = odds[wanted[3]] * 0.999
    few = make(target, tmp_path, size=7, min_p=floor)
    some = proposed(few, started(target, few, TEXT), TEXT, sampling=sampling, depth=3)
    assert some.token_list == tree.token_list[: 1 + sum(odds[path] >= floor for path in wanted)]


@pytest.mark.parametrize("tree", [None, "chain:length=9", "static:widths=[2,2]"])
def test_a_rule_that_reads_laws_gets_those_of_the_block(
    target: Any, tmp_path: Path, tree: str | None
) -> None:
    heads = write_random_dflash(tmp_path, target, **KINDS["rnn"])
    reference, drafter = Reference(target, heads), make(target, tmp_path, tree)
    states = reference.states(TEXT[:-1])
    drawn = proposed(drafter, started(target, drafter, TEXT), TEXT, sampling=SAMPLED, law=True)
    assert drawn.draw != "point"
    inner = set(drawn.shape.parent_list[1:])
    assert len(inner) >= 3
    for node in inner:
        path = [drawn.token_list[one] for one in drawn.path_to(node)[1:]]
        found = drawn.law(node)
        assert found is not None
        wanted = warp(reference.twin.laws(states, TEXT[-1], path), SAMPLED)
        np.testing.assert_allclose(found, wanted, rtol=5e-3, atol=1e-5)


def test_tokens_that_are_not_drafted_have_no_law(target: Any, tmp_path: Path) -> None:
    heads = write_random_dflash(tmp_path, target, **KINDS["reduced"])
    drafter = make(target, tmp_path)
    drawn = proposed(drafter, started(target, drafter, TEXT), TEXT, sampling=SAMPLED, law=True)
    law = drawn.law(0)
    assert law is not None and heads.token_ids is not None
    assert not np.delete(law, heads.token_ids).any() and law.sum() == pytest.approx(1, abs=1e-4)


def test_what_an_edit_forbids_is_not_drafted(target: Any, tmp_path: Path) -> None:
    write_random_dflash(tmp_path, target, **KINDS["dspark"])
    allowed = [11, 12, 13]

    def edit(path: Sequence[int]) -> Edit:
        bits = np.zeros(target.vocab_size, bool)
        bits[allowed[len(path) % 3]] = True
        return Edit(allowed=np.packbits(bits, bitorder="little"))

    drafter = make(target, tmp_path)
    tree = proposed(drafter, started(target, drafter, TEXT), TEXT, edit=edit)
    assert tree.token_list == [TEXT[-1], 11, 12, 13, 11]


def test_others_are_told_what_follows_a_path(target: Any, tmp_path: Path) -> None:
    """As `mix` asks: the best of them are the tree's own tokens; nothing before the prompt's call."""
    heads = write_random_dflash(tmp_path, target, **KINDS["dspark"])
    drafter, ask = make(target, tmp_path), Ask(TEXT[-1], len(TEXT) - 1, GREEDY, 9, 9)
    assert drafter.expected_by_path(drafter.start(Prompt.of(TEXT)), ask)([]) == ()
    after = drafter.expected_by_path(started(target, drafter, TEXT), ask)
    path: list[int] = []
    while pairs := after(path):
        assert sum(p for _, p in pairs) <= 1.001
        path.append(max(pairs, key=lambda pair: pair[1])[0])
    assert path == Reference(target, heads).chain(TEXT, 9) and len(path) == heads.config.length


@pytest.mark.parametrize(
    ("asked", "nodes", "height"),
    [({}, 8, 3), ({"budget": 2}, 2, 2), ({"budget": 0}, 0, 0), ({"depth": 1}, 8, 1), ({"depth": 0}, 0, 0)],
)
def test_budget_and_depth(
    target: Any, tmp_path: Path, asked: dict[str, int], nodes: int, height: int
) -> None:
    write_random_dflash(tmp_path, target)
    drafter = make(target, tmp_path, size=8, min_p=0)
    tree = proposed(drafter, started(target, drafter, TEXT), TEXT, **asked)
    assert tree.num_nodes == nodes + 1 and tree.shape.height <= height


def knowing(target: Any, folder: Path, tokens: Sequence[int]) -> None:
    """Layers that draft these tokens alone."""
    write_random_dflash(folder, target, token_ids=sorted({*tokens}))


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(temperature=1.5, top_k=9, seed=1)], ids=str)
@pytest.mark.parametrize("of", [write_random_dflash, knowing], ids=["all", "few"])
def test_plain_decodings_tokens(
    target: Any, tmp_path: Path, sampling: Sampling, of: Callable[..., Any]
) -> None:
    """And a draft is kept now and then, where the layers know the text's tokens."""
    plain = run(target, NoDraft(), sampling, tokens=24)
    accepted = 0
    if of is knowing:
        knowing(target, tmp_path, [token for one in plain for token in one.token_ids])
    else:
        write_random_dflash(tmp_path, target, **KINDS["rnn"])
    for tree in (None, "chain:length=3", "static:widths=[3,2]", "dynamic:size=6"):
        drafter = make(target, tmp_path, tree, **({} if tree else {"min_p": 0.0, "size": 12}))
        found = run(target, drafter, sampling, tokens=24)
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
        accepted += sum(one.stats.num_accepted for one in found)
    assert accepted > 0 or of is not knowing


def test_rows_are_given_back_and_no_room_is_no_draft(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random_dflash(tmp_path, target)
    drafter = make(target, tmp_path)
    opened, freed = [], []
    layers: Any = drafter._pass._layers
    for layer in layers:
        real_open, real_free = layer.open, layer.free
        layer.open = lambda real=real_open: opened.append(real()) or opened[-1]
        layer.free = lambda row, real=real_free: freed.append(row) or real(row)
    run(target, drafter, tokens=6)
    assert len(opened) == 4 and sorted(opened) == sorted(freed)

    def full(*args: Any, **options: Any) -> Any:
        raise CacheFull("full")

    layers[1].score = full  # the first layer has room
    for chunk in (256, 3):  # the first call that is full is a draft's, or one that only reads
        monkeypatch.setattr("outpace.drafters.heads.given.CHUNK", chunk)
        results, plain = (run(target, one, tokens=6) for one in (drafter, NoDraft()))
        assert [one.token_ids for one in results] == [one.token_ids for one in plain]
        assert sum(one.stats.num_drafted for one in results) == 0 and sorted(opened) == sorted(freed)


def test_where_there_was_no_room_once_it_drafts_as_if_there_had_been(target: Any, tmp_path: Path) -> None:
    """All layers hold the same tokens whichever of them was full."""
    heads = write_random_dflash(tmp_path, target)
    watch, layers = Watch(make(target, tmp_path, "chain:length=3")), 0
    rows: Any = watch.drafter._pass._layers
    real = rows[1].score

    def now_and_then(*args: Any, **options: Any) -> Any:
        nonlocal layers
        layers += 1
        if layers % 3 == 0:
            raise CacheFull("full")
        return real(*args, **options)

    rows[1].score = now_and_then
    assert check(watch, Reference(target, heads), run(target, watch, tokens=16), 3) >= 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0, accepted are whole numbers from 1 to 65536"),
        ({"min_p": 1.5}, "dflash has min_p=1.5, accepted are 0 to 1"),
        ({"size": "x"}, "size"),
    ],
)
def test_options_out_of_range(target: Any, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_dflash(tmp_path, random_dflash(dflash_config(target)))
    with pytest.raises(OutpaceError, match=message):
        make(target, tmp_path, **options)


def test_heads_that_are_missing_are_named(target: Any) -> None:
    with pytest.raises(OutpaceError, match="accepted is dflash:path=FOLDER"):
        DFlash(target)
