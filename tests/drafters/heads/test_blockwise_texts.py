"""Texts with blockwise heads: those of plain decoding, and as many drafts kept as heads are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import events, generate  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.rules import RULES  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from tests.drafters.heads.test_blockwise import (  # noqa: E402
    EXACT,
    SAMPLED,
    SAMPLINGS,
    hf_causal,
    make,
    output_of,
)
from tests.fakes import whole  # noqa: E402
from tests.made_heads import learn_by_heart, write_random  # noqa: E402

PROMPTS = [[1, 2, 3, 1, 2], [4], [5, 6, 7, 0, 5, 6, 7]]


@pytest.fixture(scope="module", params=EXACT, ids=lambda factory: factory.__name__)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


def plainly(target: Any, prompt: Sequence[int], sampling: Sampling, count: int = 24) -> list[int]:
    ended: Generation = whole(generate(target, NoDraft(), Match(), Request(prompt, sampling, count)))[1]
    return ended.token_ids


SHAPES = [
    None,
    "chain:length=3",
    "chain:length=9,min_p=0.2",
    "static:widths=[2,2,1]",
    "dynamic:size=7",
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_heads_that_know_the_text_by_heart(target: Any, sampling: Sampling, tmp_path: Path) -> None:
    """Three drafts in four are right: the output is plain decoding's, and whole drafts are kept."""
    prompt = PROMPTS[0]
    plain = plainly(target, prompt, sampling)
    learn_by_heart(tmp_path, target, output_of(target)[0], prompt, [plain], wrong=range(2, 24, 4))
    for shape in SHAPES:
        options = {} if shape else {"min_p": 0.01, "size": 8}
        drafter = make(target, tmp_path, tree=shape, **options)
        ended: Generation = whole(generate(target, drafter, Match(), Request(prompt, sampling, 24)))[1]
        assert ended.token_ids == plain, shape
        assert ended.stats.mean_accepted_length > 1.9, shape
    drafter = make(target, tmp_path, tree="chain", heads=2)
    ended = whole(generate(target, drafter, Match(), Request(prompt, sampling, 24)))[1]
    assert ended.token_ids == plain and 1.2 < ended.stats.mean_accepted_length <= 2


@pytest.mark.parametrize("shape", [None, "static:widths=[2,2,1]"])
def test_rows_of_a_batch(target: Any, shape: str | None, tmp_path: Path) -> None:
    """Three rows that draft, and are right, to different lengths."""
    plain = [plainly(target, prompt, SAMPLED, 18) for prompt in PROMPTS]
    for right in range(3):
        folder = tmp_path / str(right)
        learn_by_heart(folder, target, output_of(target)[0], PROMPTS[right], [plain[right]])
        requests = [Request(prompt, SAMPLED, 18) for prompt in PROMPTS]
        ended = whole(events(target, make(target, folder, tree=shape), Match(), requests))[1]
        assert [one.token_ids for one in ended] == plain
        lengths = [one.stats.mean_accepted_length for one in ended]
        assert np.argmax(lengths) == right and lengths[right] > 2.5, lengths


@pytest.mark.parametrize("rule", ["speculative", "block"])
def test_rules_that_read_laws_run(tmp_path: Path, rule: str) -> None:
    causal = hf_causal(tmp_path)
    write_random(tmp_path, causal)
    drafter = make(causal, tmp_path, tree="chain:length=3")
    request = Request(PROMPTS[0], SAMPLED, 20)
    ended: Generation = whole(generate(causal, drafter, RULES.create(rule), request))[1]
    assert ended.exactness == "distribution" and ended.stats.num_drafted > 20
    greedy = Request(PROMPTS[0], Sampling(), 20)
    ended = whole(generate(causal, drafter, RULES.create(rule), greedy))[1]
    assert ended.token_ids == plainly(causal, PROMPTS[0], Sampling(), 20)
