"""Biases, penalties and ends of a call: against plain arithmetic, and no text changes with drafts."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import outpace
from outpace.core.edits import edited
from outpace.core.errors import OutpaceError
from outpace.models.processors import Place, Processors, Rules
from tests.fake_models import write_gguf

VOCAB = 12
PROMPT = outpace.Prompt([5, 9, 9, 17, 5, 40, 9])
STEERED: list[dict[str, Any]] = [
    {"presence_penalty": 0.7},
    {"frequency_penalty": 0.4, "min_tokens": 20},
    {"presence_penalty": -0.5, "frequency_penalty": -0.3, "repetition_penalty": 1.2},
    {"logit_bias": {7: 2.5, 11: -math.inf, 298: 1.0}, "repetition_penalty": 1.4},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("choosing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        write_gguf(folder / "tiny.gguf", "llama")
        with outpace.load(folder / "tiny.gguf") as loaded:
            yield loaded


def test_penalties_are_those_of_plain_arithmetic() -> None:
    """Of the answer and the drafts behind it, never of the prompt; the repetition penalty counts that too."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        presence, frequency = rng.uniform(-2, 2, 2)
        penalty = float(rng.choice([1.0, 1.5]))
        text = rng.integers(0, VOCAB, rng.integers(2, 12)).tolist()
        first = int(rng.integers(1, len(text) + 1))
        processors = Processors(
            Rules(presence=presence, frequency=frequency, penalty=penalty), Place(VOCAB, first, 0, 99)
        )
        logits = rng.normal(size=VOCAB).astype(np.float32)
        paths: list[list[int]] = [[], rng.integers(0, VOCAB, 3).tolist()]
        for path in paths:
            expected = logits.astype(np.float64)
            for token, count in Counter([*text[first:], *path]).items():
                expected[token] -= presence + frequency * count
            for token in {*text, *path}:
                expected[token] *= penalty if expected[token] < 0 else 1 / penalty
            found = edited(logits, processors(text, path))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        text.append(int(rng.integers(0, VOCAB)))  # the same list, grown
        expected = logits.astype(np.float64)
        for token, count in Counter(text[first:]).items():
            expected[token] -= presence + frequency * count
        for token in set(text):
            expected[token] *= penalty if expected[token] < 0 else 1 / penalty
        np.testing.assert_allclose(edited(logits, processors(text, [])), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", STEERED)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 3}])
def test_drafts_change_nothing(model: Any, options: dict[str, Any], sampling: dict[str, Any]) -> None:
    wanted = {"max_tokens": 48, **sampling}
    plain = model.generate(PROMPT, draft="none", **wanted, **options)
    for draft in ("ngram", "suffix", "early_exit:layers=2"):
        drafted = model.generate(PROMPT, draft=draft, **wanted, **options)
        assert drafted.token_ids == plain.token_ids
    assert plain.token_ids != model.generate(PROMPT, draft="none", **wanted).token_ids, "it does something"
    if bias := options.get("logit_bias"):
        assert not {token for token, value in bias.items() if value == -math.inf} & {*plain.token_ids}


def test_a_text_ends_where_it_may(model: Any) -> None:
    free = model.generate(PROMPT, draft="ngram", max_tokens=40, ignore_eos=True)
    assert free.finish_reason == "length" and len(free.token_ids) == 40
    place = next(n for n in range(5, 40) if free.token_ids[n] not in free.token_ids[:n])
    stop = free.token_ids[place]
    for draft in ("none", "ngram"):
        ended = model.generate(PROMPT, draft=draft, max_tokens=40, ignore_eos=True, stop_token_ids=[stop])
        assert ended.finish_reason == "stop" and ended.token_ids == free.token_ids[: place + 1]
        longer = model.generate(
            PROMPT, draft=draft, max_tokens=40, ignore_eos=True, stop_token_ids=[stop], min_tokens=place + 4
        )
        assert longer.token_ids[:place] == free.token_ids[:place] and len(longer.token_ids) >= place + 4
        assert stop not in longer.token_ids[: place + 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"logit_bias": {300: 1.0}},
            "logit_bias token is 300, accepted are whole numbers from 0 to 299",
        ),
        ({"logit_bias": {3: math.nan}}, "logit_bias is nan, accepted are numbers"),
        ({"logit_bias": dict.fromkeys(range(300), -math.inf)}, "bans every token"),
        ({"logit_bias": [3]}, "logit_bias is"),
        ({"presence_penalty": math.inf}, "presence_penalty is inf, accepted are finite numbers"),
        ({"frequency_penalty": "much"}, "frequency_penalty is 'much', accepted are numbers"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, accepted are numbers > 0"),
        ({"min_tokens": 9}, r"min_tokens is 9, accepted are whole numbers from 0 to 8 \(max_tokens\)"),
        ({"min_tokens": -1}, "min_tokens is -1"),
        ({"stop_token_ids": [-1]}, "stop_token_ids is -1, accepted are whole numbers from 0 to 299"),
        ({"ignore_eos": "yes"}, "ignore_eos is 'yes', accepted are True and False"),
    ],
)
def test_values_out_of_range_get_one_line(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OutpaceError, match=message):
        model.generate(PROMPT, max_tokens=8, **options)


def test_options_of_a_call_are_in_its_signature() -> None:
    import inspect

    assert {"logit_bias", "presence_penalty", "min_tokens", "ignore_eos"} <= {
        *inspect.signature(outpace.Model.generate).parameters
    }


def test_every_call_counts_its_own_text(model: Any) -> None:
    once, twice = (
        model.generate(PROMPT, max_tokens=30, presence_penalty=1.0, draft="none").token_ids for _ in range(2)
    )
    assert once == twice
