"""Our own names for options beside those of transformers, in texts of `accelerate`."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from tests.fake_models import write_tokenizer  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import tiny_seq2seq  # noqa: E402
from tests.models.test_logits_processors import Bent, OfThePath  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet")
TEXT = "the rain in"
DRAFTS = ["ngram:min_n=1,max_n=2,length=5", "mix"]
STEERED: list[dict[str, Any]] = [
    {"logit_bias": {9: 3.0, 17: -math.inf, 40: 1.5}},
    {"presence_penalty": 2.5},
    {"frequency_penalty": 1.5, "presence_penalty": -0.5},
    {"frequency_penalty": 0.5, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"presence_penalty": 1.5, "sequence_bias": {(9,): 2.0, (5, 9): -4.0}, "logit_bias": {9: 1.0}},
]


class Openai(transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
    """The options of STEERED that transformers does not have, in its own arithmetic; before all others."""

    def __init__(self, width: int, options: dict[str, Any]) -> None:
        self.width = width
        self.options = options

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        counts = torch.bincount(input_ids[0, self.width :], minlength=scores.shape[1])
        added = torch.zeros(scores.shape[1], dtype=torch.float64)
        for token, bias in self.options.get("logit_bias", {}).items():
            added[token] += bias
        added -= self.options.get("presence_penalty", 0.0) * (counts > 0)
        added -= self.options.get("frequency_penalty", 0.0) * counts
        return scores + added.float()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=["llama", "t5"])
def model(request: pytest.FixtureRequest) -> Any:
    model = tiny_seq2seq("t5") if request.param == "t5" else tiny_model("llama")
    model.generation_config.update(max_length=None, eos_token_id=None)
    return model


def own(model: Any) -> dict[str, Any]:
    return {} if model.config.is_encoder_decoder else {"raw": True}


def begun(model: Any, tokenizer: Any) -> tuple[Any, int]:
    """The input of `model.generate`, and how many tokens of its output are the prompt's."""
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    return ids, 1 if model.config.is_encoder_decoder else ids.shape[1]


@pytest.mark.parametrize("options", STEERED)
@pytest.mark.parametrize("custom", [False, True])
def test_penalties_and_biases(model: Any, tokenizer: Any, options: dict[str, Any], custom: bool) -> None:
    """They come first: the reference has them in a model of its own, which adds them to its logits."""
    ids, width = begun(model, tokenizer)
    first = Openai(width, options)
    theirs: dict[str, Any] = {}
    for name in ("repetition_penalty", "no_repeat_ngram_size", "sequence_bias"):
        theirs |= {name: options[name]} if name in options else {}
    customs = [Bent(), OfThePath()] if custom else []
    config = transformers.GenerationConfig(**theirs, do_sample=False, num_beams=1)
    inner = model._get_logits_processor

    def in_front(*args: Any, **more: Any) -> Any:
        return transformers.LogitsProcessorList([first, *inner(*args, **more)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_get_logits_processor", in_front)
        expected = model.generate(ids, config, max_new_tokens=24, logits_processor=customs, pad_token_id=0)
    expected = expected[0, width:].tolist()
    given = {"max_tokens": 24, **own(model), **options, **({"logits_processor": customs} if custom else {})}
    for draft in ("none", *DRAFTS):
        found = outpace.accelerate(model, tokenizer, draft=draft).generate(TEXT, **given)
        assert found.token_ids == expected, draft


def test_where_a_text_ends(model: Any, tokenizer: Any) -> None:
    options = {"max_tokens": 40, **own(model)}
    for draft in ("none", *DRAFTS):
        fast = outpace.accelerate(model, tokenizer, draft=draft)
        free = fast.generate(TEXT, **options)
        assert free.finish_reason == "length" and len(free.token_ids) == 40
        place = next(n for n in range(3, 40) if free.token_ids[n] not in free.token_ids[:n])
        stop = free.token_ids[place]
        ended = fast.generate(TEXT, stop_token_ids=[stop], **options)
        assert ended.finish_reason == "stop" and ended.token_ids == free.token_ids[: place + 1]
        assert fast.generate(TEXT, eos_token_id=stop, **options).token_ids == ended.token_ids
        assert fast.generate(TEXT, eos_token_id=stop, ignore_eos=True, **options).token_ids == free.token_ids
        longer = fast.generate(TEXT, stop_token_ids=[stop], min_tokens=place + 4, **options)
        assert longer.token_ids[:place] == free.token_ids[:place] and len(longer.token_ids) >= place + 4
        assert stop not in longer.token_ids[: place + 4]
        same = fast.generate(TEXT, eos_token_id=stop, min_new_tokens=place + 4, **options)
        assert same.token_ids == longer.token_ids


@pytest.mark.parametrize("sampling", [{}, {"sampling": outpace.Sampling(temperature=0.9, seed=3)}])
def test_grammars(model: Any, tokenizer: Any, sampling: dict[str, Any]) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "done": {"type": "boolean"}},
        "required": ["colour", "done"],
        "additionalProperties": False,
    }
    options: dict[str, Any] = {"max_tokens": 60, "eos_token_id": 2, **own(model), **sampling}
    options["grammar"] = outpace.Grammar.json_schema(schema)
    for more in ({}, {"logits_processor": [OfThePath()]}, {"presence_penalty": 0.5}):
        plain = outpace.accelerate(model, tokenizer, draft="none").generate(TEXT, **options, **more)
        assert set(json.loads(plain.text)) == {"colour", "done"} and plain.finish_reason == "stop"
        for draft in DRAFTS:
            fast = outpace.accelerate(model, tokenizer, draft=draft)
            drafted = fast.generate(TEXT, **options, **more)
            assert (drafted.token_ids, drafted.text) == (plain.token_ids, plain.text)
            assert drafted.stats.target_calls < plain.stats.target_calls, "what is certain is drafted"
            assert "".join(fast.stream(TEXT, **options, **more)) == plain.text


@pytest.mark.parametrize("more", [{}, {"logits_processor": [Bent()]}])
@pytest.mark.parametrize("sampling", [{}, {"sampling": outpace.Sampling(temperature=0.9, seed=3)}])
def test_a_grammar_is_about_what_is_not_forced(tokenizer: Any, sampling: dict[str, Any], more: Any) -> None:
    """Behind a first token that is forced, such as a language, and up to a last one."""
    pytest.importorskip("llguidance")
    model = tiny_seq2seq("t5")
    model.generation_config.update(max_length=None, eos_token_id=2)
    options: dict[str, Any] = {"grammar": outpace.Grammar.regex("[ab]{3}, or else"), **sampling, **more}
    options |= {"forced_bos_token_id": 77, "forced_eos_token_id": 2}
    for most, pattern in ((20, "[ab]{3}, or else"), (4, "[ab]{2,}.*")):
        found = [
            outpace.accelerate(model, tokenizer, draft=draft).generate(TEXT, max_tokens=most, **options)
            for draft in ("none", *DRAFTS)
        ]
        ids = found[0].token_ids
        assert [one.token_ids for one in found] == [ids] * len(found)
        assert ids[0] == 77 and ids[-1] == 2 and found[0].finish_reason == "stop"
        assert re.fullmatch(pattern, tokenizer.decode(ids[1:-1])), ids
        if most == 20:
            assert all(one.stats.target_calls < found[0].stats.target_calls for one in found[1:])


def test_logprobs(model: Any, tokenizer: Any) -> None:
    fast = outpace.accelerate(model, tokenizer, draft=DRAFTS[0])
    found = fast.generate(TEXT, max_tokens=12, logprobs=2, **own(model))
    assert found.logprobs is not None and [one.token for one in found.logprobs] == found.token_ids
    assert all(one.top[0] == (one.token, one.logprob) and len(one.top) == 2 for one in found.logprobs)
    assert fast.generate(TEXT, max_tokens=12, **own(model)).logprobs is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"logit_bias": {300: 1.0}}, "logit_bias token is 300, accepted are whole numbers from 0 to 299"),
        ({"presence_penalty": math.inf}, "presence_penalty is inf, accepted are finite numbers"),
        ({"min_tokens": 9}, r"min_tokens is 9, accepted are whole numbers from 0 to 8 \(max_tokens\)"),
        ({"min_tokens": 3, "min_new_tokens": 3}, "min_tokens and min_new_tokens are given"),
        ({"stop_token_ids": [-1]}, "stop_token_ids is -1"),
        ({"ignore_eos": "yes"}, "ignore_eos is 'yes', accepted are True and False"),
        ({"logprobs": 21}, "logprobs is 21, accepted are whole numbers from 0 to 20"),
        ({"grammar": "json"}, "grammar is 'json', accepted are None and outpace.Grammar"),
        ({"grammar": outpace.Grammar.regex("a"), "ignore_eos": True}, "a token that ends the text"),
    ],
)
def test_values_out_of_range_get_one_line(
    model: Any, tokenizer: Any, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(OutpaceError, match=why) as error:
        outpace.accelerate(model, tokenizer).generate(TEXT, max_tokens=8, **own(model), **options)
    assert str(error.value).isprintable()


def test_tensors_have_the_names_of_transformers_alone(model: Any) -> None:
    for option in ({"presence_penalty": 1.0}, {"min_tokens": 3}, {"grammar": outpace.Grammar.json()}):
        with pytest.raises(OutpaceError, match=f"generate has no option {next(iter(option))}"):
            outpace.accelerate(model).generate(torch.tensor([[5, 6, 7]]), **option)
