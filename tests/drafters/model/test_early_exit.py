"""Early exit: the draft is the exit's, and verifying goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.edits import Edit
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, choose
from outpace.core.steps import Ask
from outpace.core.tree import TokenTree
from outpace.drafters.model.early_exit import EarlyExit
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.rules.match import Match
from outpace.targets.native import NativeTarget
from outpace.targets.table import TableTarget
from outpace.trees.chain import Chain
from tests.fakes import Wide, whole
from tests.native_models import gguf_target
from tests.rows import on, opened

TEXT = [5, 9, 2, 77, 120, 5, 9]
SAMPLINGS = [Sampling(), Sampling(temperature=0.9, top_p=0.95, seed=4)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> NativeTarget:
    return gguf_target(tmp_path_factory.mktemp("model"), "llama", "Q8_0")


def ask(row: int, sampling: Sampling, **options: object) -> Ask:
    """To go on behind TEXT, whose last token is not cached yet."""
    return Ask(TEXT[-1], len(TEXT) - 1, sampling, 20, 20, row=row, **options)  # type: ignore[arg-type]


def propose(drafter: EarlyExit, one: Ask) -> TokenTree:
    return drafter.propose([None], [one])[0]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_each_token_is_what_the_exit_says_of_the_text_before(
    target: NativeTarget, layers: int, sampling: Sampling
) -> None:
    """Against rows of their own, on which all drafted tokens run anew."""
    rows, _ = opened(target, [TEXT[:-1]])
    for tree in (Chain(length=5), Chain(length=5, min_p=0.001)):
        draft = propose(EarlyExit(layers=layers, tree=tree, target=target), ask(rows[0], sampling, law=False))
        text = [TEXT[-1]]
        for level in range(5):
            fresh, _ = opened(target, [TEXT[:-1]])
            scores = target.run(on(fresh, [TokenTree.chain(text[0], text[1:])]), layers=layers)
            text += choose(scores.logits(0, [level]), sampling, [len(TEXT) + level])
            target.free(fresh)
        assert draft.token_list == text
    target.free(rows)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_all_layers_draft_what_will_be_accepted(target: NativeTarget, sampling: Sampling) -> None:
    drafter = EarlyExit(layers=target.num_layers, tree=Chain(length=4), target=target)
    _, result = whole(generate(target, drafter, Match(), Request(TEXT, sampling, 26)))
    assert result.stats.num_accepted == result.stats.num_drafted
    assert len(result.token_ids) == 26 and result.stats.mean_accepted_length == 5.0


def test_verifying_runs_the_rest_of_the_layers_alone(target: NativeTarget) -> None:
    rows, _ = opened(target, [TEXT[:-1], TEXT[:3]])
    num_layers = target.num_layers
    for tree in (Chain(length=4), Wide(2, 3)):
        drafter = EarlyExit(layers=2, tree=tree, target=target)
        asks = [ask(rows[0], Sampling()), Ask(TEXT[3], 3, Sampling(), 20, 20, row=rows[1])]
        drafts = drafter.propose([None, None], asks)
        again = [TokenTree(draft.token_list, draft.parents) for draft in drafts]
        scores = target.score(on(rows, again))
        resumed = [scores.logits(row, range(draft.num_nodes)) for row, draft in enumerate(drafts)]
        work = target._decoder.work
        scores = target.score(on(rows, again))
        for row, draft in enumerate(drafts):
            np.testing.assert_array_equal(resumed[row], scores.logits(row, range(draft.num_nodes)))
        leaves = sum(len(draft.paths()) for draft in drafts)
        inner = sum(draft.num_nodes for draft in drafts) - leaves
        assert work == target._decoder.work - 2 * 2 * inner
        assert target._decoder.work == 2 * num_layers * (inner + leaves)
    target.free(rows)


def test_options(target: NativeTarget) -> None:
    assert EarlyExit(target=target).layers == 2  # of 3
    assert not EarlyExit(target=target).traits.branches
    assert EarlyExit(tree=Wide(2, 2), target=target).traits.branches
    for layers in (-1, target.num_layers + 1):
        with pytest.raises(OutpaceError, match="accepted are 0 to 3"):
            EarlyExit(layers=layers, target=target)
    whole: Any = TableTarget.random(vocab_size=4, order=1, seed=0)
    with pytest.raises(OutpaceError, match=r"TableTarget cannot run a part .* accepted are native"):
        EarlyExit(target=whole)


def test_an_edit_of_the_logits_counts(target: NativeTarget, tmp_path: Path) -> None:
    rows, _ = opened(target, [TEXT[:-1]])
    push = Edit([17], [1e4])
    one = ask(rows[0], Sampling(), edit=lambda path: push, law=False)
    draft = propose(EarlyExit(layers=1, tree=Chain(length=3), target=target), one)
    assert draft.token_list[1:] == [17, 17, 17]
    target.free(rows)
