"""A draft model: what it drafts, what it keeps, what it costs, and that laws survive it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from outpace.core.call import Call, Prompt
from outpace.core.contracts import Drafter, Rule, Target
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Candidates, ScoredCall, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.decode.judge import judge
from outpace.decode.step import step
from outpace.drafters.model.small_model import SmallModel, small_model
from outpace.drafters.model.vocabulary import SameTokens
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, generate
from outpace.engine.request import Generation, Request
from outpace.rules.match import Match
from outpace.rules.multi_draft import MultiDraft
from outpace.targets.table import TableTarget
from outpace.trees.chain import Chain
from outpace.trees.dynamic import Dynamic
from outpace.trees.grow import grow_trees
from outpace.trees.static import Static
from tests.fakes import Letters, whole
from tests.laws import FALSE_ALARM_RATE, g_test
from tests.lazy_table import LazyTable
from tests.native_models import gguf_target
from tests.rows import opened

VOCAB_SIZE = 12
PROMPT = [1, 2, 3]
SAMPLINGS = [Sampling(), Sampling(temperature=1.0, seed=5), Sampling(0.7, top_k=4, top_p=0.9, seed=6)]


class Counted(TableTarget):
    """Counts calls, and the nodes that they score."""

    calls = 0
    nodes = 0

    def score(self, calls: Sequence[Call]) -> Any:
        self.calls += 1
        self.nodes += sum(call.lead + call.tree.num_nodes for call in calls)
        return super().score(calls)


def table(seed: int = 3, **options: Any) -> Counted:
    return Counted.random(vocab_size=VOCAB_SIZE, order=2, seed=seed, **options)


def run(
    target: Target,
    drafter: Drafter,
    sampling: Sampling,
    num: int = 40,
    rule: Rule | None = None,
    **request: Any,
) -> Generation:
    made: Generation = whole(
        generate(target, drafter, rule or Match(), Request(PROMPT, sampling, num, **request))
    )[1]
    return made


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize(
    "tree", [None, Static(widths="1,1,1,1"), Dynamic(size=8)], ids=["chain", "static", "dynamic"]
)
def test_the_same_model_is_accepted_in_full(sampling: Sampling, tree: Any) -> None:
    """Greedy, and sampled through the shared noise: every call gives the whole chain and one more."""
    drafter = SmallModel.of(table(), tree=tree)
    generation = run(table(), drafter, sampling, num=41)
    if isinstance(tree, Dynamic):  # not the whole tree, but always down to a leaf
        assert generation.stats.mean_accepted_length > 3
    else:
        assert generation.stats.target_calls == 8 and generation.stats.num_accepted == 32


def test_without_the_shared_noise_samples_would_differ() -> None:
    """A draft model of the target's law whose noise is another one agrees by chance only."""

    class OtherNoise(SmallModel):
        def propose(self, states: Any, asks: Sequence[Ask]) -> list[TokenTree]:
            other = [replace(ask, sampling=replace(ask.sampling, seed=99)) for ask in asks]
            return super().propose(states, other)

    ours, theirs = (run(table(), kind.of(table()), SAMPLINGS[1], 200) for kind in (SmallModel, OtherNoise))
    assert ours.token_ids == theirs.token_ids
    assert ours.stats.mean_accepted_length > 4.5 and theirs.stats.mean_accepted_length < 2.5


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_worse_model_changes_nothing_but_the_speed(sampling: Sampling) -> None:
    plain = run(table(), NoDraft(), sampling)
    drafted = run(table(), SmallModel.of(table(seed=9)), sampling)
    assert drafted.token_ids == plain.token_ids
    assert 1 <= drafted.stats.mean_accepted_length < 3


def test_one_call_per_level_and_none_to_catch_up() -> None:
    draft = table()
    generation = run(table(), SmallModel.of(draft, tree=Chain(length=3)), Sampling(), num=41)
    assert generation.stats.target_calls == 10
    assert draft.calls == 3 * 10
    # 1 to 3 nodes a level; from the second step on the last draft has to be read in front of the new root.
    assert draft.nodes == 10 * (1 + 2 + 3) + 9 + len(PROMPT) - 1


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("law", [True, False])
@pytest.mark.parametrize(
    "tree",
    [Chain(length=6, min_p=0.2), Static(widths="3,2,1"), Dynamic(size=14, depth=5), Dynamic(size=30, k=2)],
    ids=["chain", "static", "dynamic", "narrow"],
)
def test_the_tree_is_that_of_the_growth_loop(sampling: Sampling, law: bool, tree: Any) -> None:
    """Whatever is scored on the way, in parts and behind tokens owed: the logits are those after the path."""
    draft = table(seed=9)
    drafter = SmallModel.of(draft, tree=tree)
    text = list(PROMPT)
    state = drafter.start(Prompt.of(text))

    def step(rows: Any, trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]) -> list[np.ndarray]:
        [tree], [wanted] = trees, nodes
        paths = [[tree.token_list[i] for i in tree.path_to(node)] for node in wanted]
        return [np.stack([draft.after([*text[:-1], *path]) for path in paths])]

    for new in ([4], [7, 0, 2], [5], [1, 1]):
        root_only = TokenTree.root(text[-1])
        state.reading.ids += new  # committed without a draft of it
        text += new
        ask = Ask(text[-1], len(text) - 1, sampling, 20, 9, law=law)
        [proposed], [expected] = drafter.propose([state], [ask]), grow_trees([ask], tree, step)
        assert proposed.token_list == expected.token_list
        assert proposed.shape.parent_list == expected.shape.parent_list
        assert proposed.draw == expected.draw
        [state] = drafter.observe([state], [Step(root_only, None, Verdict([], 6, "identical"))])  # type: ignore[arg-type]
        text.append(6)
    drafter.stop(state)


def test_rows_share_the_calls_of_the_draft_model() -> None:
    draft = table()
    prompts = [[1, 2, 3], [4, 0], [5, 6, 7, 8]]
    requests = [Request(prompt, Sampling(temperature=1.0, seed=n), 25) for n, prompt in enumerate(prompts)]
    batch = whole(events(table(), SmallModel.of(draft), Match(), requests))[1]
    alone = [whole(generate(table(), NoDraft(), Match(), request))[1] for request in requests]
    assert [one.token_ids for one in batch] == [one.token_ids for one in alone]
    assert draft.calls == 5 * 4 and draft.num_rows == 0


class Checked(Counted):
    """A draft model of which every row has to hold the text that the test says."""

    def texts(self) -> list[list[int]]:
        return list(self._rows.values())


def test_the_draft_models_cache_is_a_prefix_of_the_text() -> None:
    """After every step: what the row holds is committed text, however much of the draft was accepted."""
    draft = Checked.random(vocab_size=VOCAB_SIZE, order=2, seed=4)
    target = table(seed=4)
    noise = np.random.default_rng(0).normal(scale=0.8, size=target.table.shape)
    target.table = (target.table + noise).astype(np.float32)
    for tree, levels in ((Chain(), 4), (Dynamic(size=9), 0), (Static(widths="2,2,1"), 3)):
        drafter = SmallModel.of(draft, tree=tree)
        rows, scores = opened(target, [PROMPT])
        text = list(PROMPT)
        sampling = Sampling(temperature=1.0, seed=2)
        ask = Ask(text[-1], len(text) - 1, sampling, 0, 0)
        steps = judge(Match(), ScoredCall(scores, [TokenTree.root(text[-1])], [ask]))
        states = drafter.observe([drafter.start(Prompt.of(PROMPT))], steps)
        accepted = []
        for _ in range(25):
            text += steps[0].tokens
            ask = Ask(text[-1], len(text) - 1, sampling, 20, 6, row=rows[0], law=False)
            steps, states, _ = step(target, drafter, Match(), states, [ask])
            accepted.append(len(steps[0].verdict.path))
            [cached] = draft.texts()
            assert cached == [*text, *steps[0].tokens][: len(cached)]
            # The root, and of what was accepted all but the leaves, which no call has scored; a dynamic
            # tree's last call leaves out branches that were given up.
            kept = min(len(steps[0].verdict.path), levels - 1) if levels else 0
            assert len(cached) >= len(text) + kept
        assert len(set(accepted)) > 2
        for state in states:
            drafter.stop(state)
        target.free(rows)
        assert draft.num_rows == 0


def test_a_full_context_ends_the_drafts_and_not_the_text() -> None:
    draft = table(context_length=20)
    generation = run(table(), SmallModel.of(draft), Sampling(), num=60)
    assert generation.token_ids == run(table(), NoDraft(), Sampling(), num=60).token_ids
    assert 0 < generation.stats.num_drafted < 20 and draft.num_rows == 0
    long = [1] * 30
    request = Request(long, Sampling(), 10)
    assert whole(generate(table(), SmallModel.of(draft), Match(), request))[1].stats.num_drafted == 0


@pytest.mark.parametrize("context_length", range(4, 24))
def test_wherever_the_context_ends_a_lag_that_was_read_stays_read(context_length: int) -> None:
    """The second level may find no room when the first has read what the row lagged behind."""
    draft = table(context_length=context_length)
    generation = run(table(), SmallModel.of(draft, tree=Chain(length=4)), Sampling(), num=40)
    assert generation.token_ids == run(table(), NoDraft(), Sampling(), num=40).token_ids
    assert draft.num_rows == 0


def test_an_arena_without_room_ends_the_drafts_and_not_the_text() -> None:
    class Full(Counted):
        def score(self, calls: Sequence[Call]) -> Any:
            if self.calls % 5 == 3:
                self.calls += 1
                raise OutpaceError("the cache of keys and values is full")
            return super().score(calls)

    draft = Full.random(vocab_size=VOCAB_SIZE, order=2, seed=3)
    generation = run(table(), SmallModel.of(draft), Sampling(), num=60)
    assert generation.token_ids == run(table(), NoDraft(), Sampling(), num=60).token_ids
    assert generation.stats.mean_accepted_length > 2


def test_tokens_that_the_draft_model_does_not_have_end_its_drafts() -> None:
    small = TableTarget.random(vocab_size=4, order=2, seed=3)
    drafter = SmallModel.of(small, vocab_size=VOCAB_SIZE)
    generation = run(table(), drafter, Sampling(temperature=1.0, seed=1))
    assert generation.token_ids == run(table(), NoDraft(), Sampling(temperature=1.0, seed=1)).token_ids
    assert small.num_rows == 0


def test_a_larger_vocabulary_is_cut() -> None:
    large = TableTarget.random(vocab_size=VOCAB_SIZE + 5, order=2, seed=3)
    drafter = SmallModel.of(large, vocab_size=VOCAB_SIZE, tree=Static(widths="2,1"))
    assert run(table(), drafter, SAMPLINGS[1], rule=MultiDraft()).stats.num_drafted > 0


def test_the_same_vocabulary_up_to_padding_is_recognised() -> None:
    letters = Letters("abcdefghijkl")

    class Padded(Letters):
        text_bytes: Any

        def __init__(self) -> None:
            super().__init__("abcdefghijkl")
            self.text_bytes = {**self.text_bytes, 12: b"", 13: b""}

    def make(tokenizer: Letters, vocab_size: int) -> SmallModel:
        small = SimpleNamespace(
            target=TableTarget.random(vocab_size=vocab_size, order=1), tokenizer=tokenizer
        )
        return small_model(table(), letters, lambda source: small, model="x")

    assert make(letters, VOCAB_SIZE).traits.draws and make(Padded(), VOCAB_SIZE + 2).traits.draws
    # Two letters the other way round are another vocabulary: drafts by text, without laws.
    assert not make(Letters("abcdefghijlk"), VOCAB_SIZE).traits.draws


def test_refusals() -> None:
    small = SimpleNamespace(target=table(), tokenizer=None)
    context: dict[str, Any] = {
        "open_model": lambda source: small,
        "target": table(),
        "tokenizer": Letters("ab"),
    }
    with pytest.raises(OutpaceError, match="both tokenizers"):
        small_model(model="x", **context)
    with pytest.raises(OutpaceError, match="accepted are auto, text, intersection"):
        small_model(model="x", bridge="bytes", **context)


@pytest.mark.parametrize(("rule", "draw"), [(Match(), "point"), (MultiDraft(), "without_replacement")])
def test_laws_are_made_for_rules_that_read_them(rule: Rule, draw: str) -> None:
    seen: list[Any] = []

    class Watched(SmallModel):
        def propose(self, states: Any, asks: Sequence[Ask]) -> list[TokenTree]:
            trees = super().propose(states, asks)
            seen.extend((tree.draw, tree.law(0) is not None) for tree in trees if tree.num_nodes > 1)
            return trees

    run(table(), Watched.of(table(), tree=Static(widths="2,1")), SAMPLINGS[1], num=8, rule=rule)
    assert set(seen) == {(draw, draw != "point")}


LAW = Sampling(temperature=1.0)
NUM_SEEDS, NUM_G_TESTS = 2500, 3


class Cheating(Static):
    """Prunes by what was drawn and says that it did not."""

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        assert tree.logq is not None
        best = sorted(range(1, tree.num_nodes), key=lambda node: -tree.logq[node])  # type: ignore[index]
        kept = [node for node in best if tree.shape.depths[node] == 1][:1]
        return tree.prune(kept, blind=True)


def p_value(tree: Static | Dynamic) -> float:
    target = LazyTable.random(vocab_size=4, order=2, spread=1.0, seed=8)
    drafter = SmallModel.of(TableTarget.random(vocab_size=4, order=1, spread=1.0, seed=1), tree=tree)
    requests = [Request([1, 2], replace(LAW, seed=seed), 3, budget=4) for seed in range(NUM_SEEDS)]
    texts = whole(events(target, drafter, MultiDraft(), requests))[1]
    return g_test([tuple(one.token_ids) for one in texts], target.law_of([1, 2], 3, LAW))


def test_pruned_trees_leave_the_law_of_the_output_alone() -> None:
    assert p_value(Static(widths="3,2")) > FALSE_ALARM_RATE / NUM_G_TESTS


def test_rules_with_laws_refuse_trees_that_depend_on_the_draw() -> None:
    with pytest.raises(OutpaceError, match="needs the law of the drafts"):
        p_value(Dynamic(size=3, k=2))


def test_a_tree_pruned_by_its_draws_that_keeps_them_is_caught() -> None:
    assert p_value(Cheating(widths="3")) < 1e-3 * FALSE_ALARM_RATE


def test_a_fork_goes_its_own_way() -> None:
    draft = table()
    drafter = SmallModel.of(draft)
    rows, scores = opened(target := table(), [PROMPT])
    steps = judge(Match(), ScoredCall(scores, [TokenTree.root(3)], [Ask(3, 2, Sampling(), 0, 0)]))
    [state] = drafter.observe([drafter.start(Prompt.of(PROMPT))], steps)
    text = [*PROMPT, *steps[0].tokens]
    ask = Ask(text[-1], len(text) - 1, Sampling(), 9, 9, law=False)
    twin = drafter.fork(state)
    [first] = drafter.propose([twin], [ask])
    drafter.stop(twin)
    calls = draft.calls
    [again] = drafter.propose([state], [ask])
    assert again.token_list == first.token_list and again.num_nodes == 5
    assert draft.calls == calls + 4 and draft.num_rows == 1
    drafter.stop(state)
    target.free(rows)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize(
    "tree", [Chain(length=3), Static(widths="2,2"), Dynamic(size=6, k=2)], ids=["chain", "static", "dynamic"]
)
def test_native_models_draft_for_native_models(tmp_path: Path, family: str, tree: Any) -> None:
    options: dict[str, Any] = {"context_length": 64, "threads": 1}
    target = gguf_target(tmp_path, family, "F32", **options)
    same = gguf_target(tmp_path, family, "F32", **options)
    (tmp_path / "other").mkdir()
    other = gguf_target(tmp_path / "other", "llama", "F32", seed=1, **options)
    for sampling in SAMPLINGS[:2]:
        plain = run(target, NoDraft(), sampling, num=25)
        good, poor = (
            run(target, SmallModel.of(draft, tree=tree), sampling, num=25) for draft in (same, other)
        )
        assert good.token_ids == poor.token_ids == plain.token_ids
        depth = 3 if isinstance(tree, Chain) else 2
        if not isinstance(tree, Dynamic):
            assert good.stats.target_calls == 24 // (depth + 1)
        assert good.stats.mean_accepted_length > poor.stats.mean_accepted_length


def test_the_last_token_is_the_next_root_even_if_it_was_scored() -> None:
    """A tree may have been pruned after it was scored, so the target's last token may stand in it."""
    reader = SameTokens()
    reading = reader.start([1])
    assert reader.commit(reading, TokenTree.chain(1, [2, 3, 4]), [2, 3]) == [1]
    assert reader.pending(reading) == [3]
    assert reader.commit(reading, None, [5]) is None
    assert reader.pending(reading) == [3, 5]


def test_candidates_without_laws_leave_trees_without_them() -> None:
    tree = Candidates([0], np.array([[3]], np.int32), np.zeros((1, 1), np.float32), [], "point").hang(
        TokenTree.root(1), [1]
    )
    assert tree.token_list == [1, 3] and tree.logq is None and tree.laws == (None, None)
