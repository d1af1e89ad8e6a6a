"""Learned head 1: the target's choices are those of the paper's layer, and drafts change none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from outpace.core.contracts import Closable, Drafter, Tapped, Target
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, choose
from outpace.core.tree import TokenTree
from outpace.drafters.heads.blockwise import Blockwise
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events
from outpace.engine.request import Request
from outpace.rules.match import Match
from outpace.targets.headed import HeadedTarget
from outpace.targets.hf_causal import HfCausalTarget
from tests.hf_families import tiny_model
from tests.made_heads import head_states, write_random
from tests.rows import on, opened

PROMPTS = [[5, 6, 7, 8], [9, 3], [4]]


@pytest.fixture(scope="module")
def base() -> HfCausalTarget:
    return HfCausalTarget(tiny_model("llama", num_hidden_layers=1), context_length=64)


def written(target: Target, drafter: Drafter, sampling: Sampling) -> tuple[list[list[int]], list[str]]:
    steps = events(target, drafter, Match(), [Request(p, sampling, 16) for p in PROMPTS])
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return [list(one.token_ids) for one in end.value], [one.exactness for one in end.value]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.9, top_p=0.9, seed=4)], ids=str)
def test_choices_are_those_of_the_layer(base: HfCausalTarget, sampling: Sampling, tmp_path: Path) -> None:
    heads = write_random(tmp_path, base, first="learned")
    texts, exactness = written(HeadedTarget(base, tmp_path), NoDraft(), sampling)
    assert set(exactness) == {"lossy"} and texts != written(base, NoDraft(), sampling)[0]
    matrix = base.model.get_output_embeddings().weight.detach().double().numpy()
    for prompt, text in zip(PROMPTS, texts, strict=True):
        for at, token in enumerate(text):
            ids = [*prompt, *text[:at]]
            with torch.no_grad():
                states = base.model.base_model(torch.tensor([ids])).last_hidden_state[0, -1:].numpy()
            logits = head_states(heads, states)[:, 0] @ matrix.T
            assert choose(logits.astype(np.float32), sampling, [len(ids)]) == [token]


def test_drafts_change_nothing(base: HfCausalTarget, tmp_path: Path) -> None:
    write_random(tmp_path, base, first="learned")
    target = HeadedTarget(base, tmp_path)
    assert isinstance(target, Tapped)
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=2)):
        plain = written(target, NoDraft(), sampling)
        assert written(target, Blockwise(target, path=str(tmp_path), min_p=0.0), sampling) == plain


def test_rows_and_trees(base: HfCausalTarget, tmp_path: Path) -> None:
    write_random(tmp_path, base, first="learned")
    target = HeadedTarget(base, tmp_path)
    rows, _ = opened(target, PROMPTS[:2])
    trees = [TokenTree([1, 2, 3], [-1, 0, 0]), TokenTree.root(4)]
    together = target.score(on(rows, trees))
    assert together.hidden("final").shape == (4, target.hidden_size)
    for number, (row, tree) in enumerate(zip(rows, trees, strict=True)):
        nodes = range(tree.num_nodes)
        alone = target.score(on([row], [tree])).logits(0, nodes)
        assert np.allclose(together.logits(number, nodes), alone, atol=1e-4)
    target.keep([rows[1]], [[]])  # the last one scored
    copy = target.fork(rows[1])
    assert [target.length(row) for row in (*rows, copy)] == [4, 3, 3]
    target.free([*rows, copy])


def test_heads_without_a_first_are_refused(base: HfCausalTarget, tmp_path: Path) -> None:
    write_random(tmp_path, base)
    with pytest.raises(OutpaceError, match="no head 1 of their own, accepted is first=learned"):
        HeadedTarget(base, tmp_path)


def test_its_end_is_that_of_the_target_beneath(
    base: HfCausalTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random(tmp_path, base, first="learned")
    target, ends = HeadedTarget(base, tmp_path), list[str]()
    target.close()  # what holds nothing has no end
    monkeypatch.setattr(base, "close", lambda: ends.append("base"), raising=False)
    assert isinstance(target, Closable)
    target.close()
    assert ends == ["base"]
