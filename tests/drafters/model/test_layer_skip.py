"""Draft & Verify: which sublayers are left out, where a draft ends, and how the threshold moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.drafters.model.layer_skip import LayerSkip, middle, read_sublayers
from outpace.targets.native import NativeTarget
from outpace.targets.table import TableTarget
from tests.native_models import gguf_target
from tests.rows import NO_SCORES, on, opened

TEXT = [5, 9, 2, 77, 120, 5, 9]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> NativeTarget:
    return gguf_target(tmp_path_factory.mktemp("model"), "gemma3", "F32")


def test_sublayers_are_read() -> None:
    assert read_sublayers("a3-5,m4, 0", 6) == {6, 8, 10, 9, 0, 1}
    assert read_sublayers("5", 6) == {10, 11}
    assert read_sublayers("0-5", 6) == set(range(12))
    assert middle(6) == {4, 5, 6, 7} and middle(30) == set(range(20, 40)) and middle(1) == set()


@pytest.mark.parametrize("text", ["6", "3-6", "4-3", "x3", "a", "a3-", "1,,2", "-1", "a3m4"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(OutpaceError, match=r"a3-7,m10,12-14 .* of layers 0 to 5"):
        read_sublayers(text, 6)


def by_hand(target: NativeTarget, skip: list[int], length: int) -> tuple[list[int], list[float]]:
    """The draft and the probability of each of its tokens, all of it run anew for each."""
    text, probabilities = [TEXT[-1]], []
    for level in range(length):
        rows, _ = opened(target, [TEXT[:-1]])
        scores = target.run(on(rows, [TokenTree.chain(text[0], text[1:])]), skip=skip)
        logits = scores.logits(0, [level])[0].astype(np.float64)
        target.free(rows)
        text.append(int(np.argmax(logits)))
        probabilities.append(float(1 / np.exp(logits - logits.max()).sum()))
    return text, probabilities


def test_a_draft_ends_behind_the_first_unsure_token(target: NativeTarget) -> None:
    tokens, probabilities = by_hand(target, [4, 6, 7], 8)
    rows, _ = opened(target, [TEXT[:-1]] * 5)
    assert len(set(probabilities)) > 3
    thresholds = [0.0, min(probabilities) * 1.001, float(np.median(probabilities)), max(probabilities), 1.0]
    drafter = LayerSkip(skip="a2,3", target=target)
    states = [drafter.start(Prompt.of(TEXT[:-1])) for _ in rows]
    for state, threshold in zip(states, thresholds, strict=True):
        state.stop = threshold * 0.9999 if threshold == max(probabilities) else threshold
    asks = [Ask(TEXT[-1], len(TEXT) - 1, Sampling(), 20, 20, row=row) for row in rows]
    for draft, state in zip(drafter.propose(states, asks), states, strict=True):
        unsure = [level for level, p in enumerate(probabilities) if p < state.stop]
        length = unsure[0] + 1 if unsure else 8
        assert draft.token_list == tokens[: 1 + length]
    target.free(rows)


def step(drafted: int, accepted: int) -> Step:
    tree = TokenTree.chain(0, range(drafted))
    return Step(tree, NO_SCORES, Verdict(list(range(1, accepted + 1)), 0, "identical"))


def test_the_threshold_follows_the_rate_of_acceptance(target: NativeTarget) -> None:
    """alpha 0.5 and epsilon 0.2: r = 0.5 r + 0.5 new; gamma moves by a tenth of epsilon."""
    drafter = LayerSkip(stop=0.6, adapt=0.2, acceptance=0.5, target=target)
    state = drafter.start(Prompt.of(TEXT))
    seen = []
    for drafted, accepted in ((4, 0), (4, 4), (4, 4), (0, 0), (2, 0)):
        [state] = drafter.observe([state], [step(drafted, accepted)])
        seen.append((state.rate, state.stop))
    # All lost: more care. All kept, r = 0.625: less, twice. Nothing drafted, no news. All lost.
    expected = [(0.25, 0.62), (0.625, 0.60), (0.8125, 0.58), (0.8125, 0.58), (0.40625, 0.60)]
    np.testing.assert_allclose(seen, expected)
    for accepted, bound in ((4, 0.0), (0, 1.0)):
        for _ in range(100):
            [state] = drafter.observe([state], [step(4, accepted)])
        assert state.stop == pytest.approx(bound, abs=0.02) and 0 <= state.stop <= 1


def test_options(target: NativeTarget) -> None:
    for option in ("stop", "adapt", "acceptance"):
        for value in (-0.1, 1.1):
            with pytest.raises(OutpaceError, match=f"{option}={value}, accepted are numbers from 0 to 1"):
                LayerSkip(target=target, **{option: value})  # type: ignore[arg-type]
    whole: Any = TableTarget.random(vocab_size=4, order=1, seed=0)
    with pytest.raises(OutpaceError, match=r"TableTarget cannot run a part .* accepted are native"):
        LayerSkip(target=whole)
