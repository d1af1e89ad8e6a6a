"""Passes of a looped torch model: nodes of any age have the logits of plain arithmetic on their text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import outpace  # noqa: E402
from outpace.core.call import Pass  # noqa: E402
from outpace.core.contracts import Looped  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.hf_looped import HfLoopedTarget, causal_target  # noqa: E402
from tests.fake_models import EOS_ID  # noqa: E402
from tests.hf_families import tiny_looped, tiny_model  # noqa: E402
from tests.looped_models import NAMES, loop_logits, model_of, write_looped  # noqa: E402
from tests.looped_passes import Row, check_staggered  # noqa: E402
from tests.rows import on, opened  # noqa: E402

PROMPTS = [[5, 17, 3, 250, 9, 9, 81], [2], [90, 91, 92, 93]]


@pytest.fixture(params=NAMES, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / request.param
    write_looped(folder, request.param)
    return folder


@cache
def expected(folder: Path, text: tuple[int, ...]) -> Any:
    """f64[R, V] after the last token."""
    return loop_logits(folder, list(text))[:, -1].numpy()


@pytest.mark.parametrize("kernels", ["torch", "block"])
def test_staggered_passes(folder: Path, kernels: str) -> None:
    target = causal_target(model_of(folder), kernels=kernels)
    assert isinstance(target, HfLoopedTarget) and isinstance(target, Looped)
    numbers, _ = opened(target, PROMPTS)
    rows = [Row(number, list(prompt)) for number, prompt in zip(numbers, PROMPTS, strict=True)]
    rows.append(Row(target.open(), []))
    check_staggered(
        target,
        rows,
        lambda row, path: expected(folder, (*row.text, *path)),
        bound=2e-3 if kernels == "block" else 2e-4,
    )


def test_only_what_is_wanted_has_scores(folder: Path) -> None:
    target = HfLoopedTarget(model_of(folder))
    rows, _ = opened(target, PROMPTS[:2])
    chain = TokenTree.chain(5, [6, 7])
    one = Pass(rows[0], chain, [0] * 3, [-1] * 3, [2, 0])
    scores = target.advance([one, Pass(rows[1], chain, [0] * 3, [-1] * 3)])
    for place, text in enumerate(([5, 6, 7], [5])):
        theirs = expected(folder, (*PROMPTS[0], *text))[0]
        assert np.abs(scores.logits(place, [0])[0] - theirs).max() < 2e-4
    assert target.advance([Pass(rows[1], chain, [1] * 3, range(3))])


@pytest.mark.parametrize(
    ("loops", "came"),
    [([0], [0]), ([2], [0]), ([1], [-1]), ([1], [3]), ([1, 1], [0, -1]), ([1, 0], [0, 1])],
)
def test_nodes_that_do_not_go_on_are_refused(loops: list[int], came: list[int]) -> None:
    target = HfLoopedTarget(tiny_looped())
    row = target.open()
    target.advance([Pass(row, TokenTree.chain(5, [6]), [0, 0], [-1, -1])])
    tree = TokenTree.chain(5, [6] * (len(loops) - 1))
    with pytest.raises(OutpaceError, match=r"a node runs loop .*accepted are the loop after that node's"):
        target.advance([Pass(row, tree, loops, came)])


def test_other_refusals() -> None:
    target = HfLoopedTarget(tiny_looped(), context_length=4)
    row, root = target.open(), TokenTree.root(5)
    target.advance([Pass(row, root, [0], [-1])])
    with pytest.raises(OutpaceError, match="kept after a pass are the root and nodes that have run all"):
        target.keep([row], [()])
    target.score(on([row], [root]))  # which forgets what is in flight
    with pytest.raises(OutpaceError, match="a node runs loop 1"):
        target.advance([Pass(row, root, [1], [0])])
    with pytest.raises(OutpaceError, match="token ids are not all from 0 to 299"):
        target.advance([Pass(row, TokenTree.root(300), [0], [-1])])
    with pytest.raises(OutpaceError, match="the context holds 4"):
        target.advance([Pass(row, TokenTree.chain(5, [1] * 4), [0] * 5, [-1] * 5)])


def test_other_models_have_the_usual_target() -> None:
    assert type(causal_target(tiny_model("llama"))) is HfCausalTarget


@pytest.mark.parametrize("draft", ["none", "ngram", "speed:early=1", "speed:early=1,draft=ngram"])
def test_accelerate_gives_the_likeliest_tokens(folder: Path, draft: str) -> None:
    fast = outpace.accelerate(model_of(folder), draft=draft)
    assert isinstance(fast.target, HfLoopedTarget)
    prompts = torch.tensor([[5, 17, 3, 5, 17, 3], [9, 8, 7, 6, 5, 4]])
    made = fast.generate(prompts, max_new_tokens=10, do_sample=False)
    for row, begin in zip(made.tolist(), prompts.tolist(), strict=True):
        text = list(begin)
        for token in row[len(begin) :]:
            if text[-1] == EOS_ID:
                break
            assert token == expected(folder, tuple(text))[-1].argmax()
            text.append(token)
