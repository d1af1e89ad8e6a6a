"""Log-probabilities of a text: those of the model itself, and the same however it was drafted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from outpace.core.edits import Edit
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Generation, Request
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fakes import hostile, whole
from tests.native_models import gguf_target

SAMPLINGS = [Sampling(), Sampling(temperature=0.3, top_k=3, seed=4)]


def run(target: TableTarget, drafter: object, request: Request) -> Generation:
    made: Generation = whole(generate(target, drafter, Match(), request))[1]  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_they_are_those_of_a_softmax_of_the_raw_logits(sampling: Sampling) -> None:
    target = TableTarget.random(vocab_size=6, seed=2)

    def change(text: Sequence[int], path: Sequence[int]) -> Edit:
        return Edit([0], [-np.inf], repeated=[1, 2], penalty=1.7, allowed=np.arange(6) != 3)

    for drafter in (NoDraft(), NGram(), hostile(6)["everything"]):
        made = run(target, drafter, Request([1, 2], sampling, 30, edit=change, logprobs=2))
        assert made.logprobs is not None and len(made.logprobs) == len(made.token_ids) == 30
        text = [1, 2]
        for token, one in zip(made.token_ids, made.logprobs, strict=True):
            law = np.exp(target.after(text).astype(np.float64))
            law /= law.sum()
            best = np.argsort(-law)[:2]
            assert one.token == token and one.logprob == pytest.approx(np.log(law[token]))
            assert [other for other, _ in one.top] == best.tolist()
            assert [p for _, p in one.top] == pytest.approx(np.log(law[best]).tolist())
            text.append(token)


def test_they_end_with_the_text() -> None:
    table = np.full((5, 5), -9.0)
    table[range(5), [1, 2, 3, 4, 0]] = 9.0
    target = TableTarget(table, eos_ids=frozenset({3}))
    for drafter in (NoDraft(), hostile(5)["everything"]):
        made = run(target, drafter, Request([0], max_tokens=9, logprobs=0))
        assert made.token_ids == [1, 2, 3] and made.logprobs is not None
        assert [(one.token, one.top) for one in made.logprobs] == [(1, []), (2, []), (3, [])]
        assert run(target, drafter, Request([0], max_tokens=9)).logprobs is None


def test_drafts_change_no_bit_of_them(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q4_1", threads=2)
    request = Request([5, 6, 5, 6, 5], SAMPLINGS[1], 25, logprobs=3)
    plain, drafted = (run(target, drafter, request) for drafter in (NoDraft(), NGram()))  # type: ignore[arg-type]
    assert plain.logprobs == drafted.logprobs and plain.token_ids == drafted.token_ids


@pytest.mark.parametrize("wrong", [-1, 21, 1.5, "three", True])
def test_other_numbers_are_refused(wrong: object) -> None:
    with pytest.raises(OutpaceError, match=r"logprobs is .*accepted are whole numbers from 0 to 20"):
        Request([1], logprobs=wrong).check(TableTarget.random())  # type: ignore[arg-type]
