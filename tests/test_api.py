"""The five-line use on a Markov table with a tokenizer of letters: prompts, options, streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from outpace.api import Model
from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.drafters import DRAFTERS
from outpace.drafters.ngram import NGram
from outpace.formats import LoadedModel
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fakes import Letters

LETTERS = "abcdefgé∑:\n"


class Chat:
    """A template that writes the first letters of role and content."""

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        return "".join(f"{ROLE_LETTERS[m['role']]}:{m['content']}\n" for m in messages)


ROLE_LETTERS = {"system": "a", "user": "b", "assistant": "c", "tool": "d"}


def model(*, chat: bool = True, context_length: int = 4096) -> Model:
    target = TableTarget.random(vocab_size=len(LETTERS), seed=6, spread=3.0, context_length=context_length)
    loaded = SimpleNamespace(
        config=None, weights=None, tokenizer=Letters(LETTERS), chat=Chat() if chat else None
    )
    return Model(cast("LoadedModel", loaded), target, name="letters", num_threads=1)


def test_prompts_become_token_ids() -> None:
    made, letters = model(), Letters(LETTERS)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ("face", {}, "b:face\n"),
        ("face", {"system": "bed"}, "a:bed\nb:face\n"),
        ("face", {"raw": True}, "face"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], {}, "b:a\nc:b\n"),
        ([{"role": "user", "content": "a"}], {"system": "g"}, "a:g\nb:a\n"),
    ]
    for prompt, options, text in cases:
        assert letters.decode(made.prompt_ids(prompt, **options)) == text
    assert letters.decode(model(chat=False).prompt_ids("face")) == "face"


@pytest.mark.parametrize(
    ("prompt", "options", "accepted"),
    [
        (
            [{"role": "robot", "content": "a"}],
            {},
            "unknown role 'robot', accepted are system, user, assistant, tool",
        ),
        ([{"content": "a"}], {}, "unknown role None"),
        ([], {}, "1 message or more"),
        (["hi"], {}, "a message is 'hi', accepted are mappings with role and content"),
        (None, {}, "the prompt is None, accepted are a text and messages"),
        ("a", {"raw": True, "system": "b"}, "takes no system message"),
        ([{"role": "user", "content": "a"}], {"raw": True}, "must be a text"),
        ("", {"raw": True}, "prompt is empty"),
        ("a", {"draft": "ngrams"}, "accepted are"),
        ("a", {"draft": "ngram:max=3"}, "accepted are min_n, max_n, length, max_length"),
        ("a", {"rule": "lucky"}, "unknown rule 'lucky', accepted are"),
        ("a", {"temperature": -1.0}, ">= 0"),
        ("a", {"max_tokens": 0}, ">= 1"),
        ("a", {"stop": ""}, "at least one character"),
    ],
)
def test_bad_input_names_what_is_accepted(prompt: Any, options: dict[str, Any], accepted: str) -> None:
    with pytest.raises(OutpaceError) as error:
        model().stream(prompt, **options)
    assert accepted in str(error.value) and "\n" not in str(error.value)


def test_a_model_without_a_template_takes_texts_only() -> None:
    cases: list[tuple[Any, dict[str, Any]]] = [
        ([{"role": "user", "content": "a"}], {}),
        ("a", {"system": "b"}),
    ]
    for prompt, options in cases:
        with pytest.raises(OutpaceError, match="chat template"):
            model(chat=False).stream(prompt, **options)


def test_a_prompt_longer_than_the_context_fails_before_it_runs() -> None:
    with pytest.raises(PromptTooLong, match="7 tokens, the context holds 6"):
        model(context_length=6).stream("face", draft="none")


def test_streaming_equals_generating() -> None:
    made = model()
    options: dict[str, Any] = {"max_tokens": 60, "temperature": 0.9, "seed": 4, "stop": ("eé", "∑a")}
    for draft in ("none", "ngram", NGram(length=3)):
        generation = made.generate("face", draft=draft, **options)
        stream = made.stream("face", draft=draft, rule=Match(), **options)
        pieces = list(stream)
        assert all(pieces) and "".join(pieces) == generation.text == stream.result.text
        assert stream.result.token_ids == generation.token_ids == made.generate("face", **options).token_ids
        assert stream.result.finish_reason == generation.finish_reason


def test_a_stream_that_was_left_has_no_result_and_no_row() -> None:
    made = model()
    stream = made.stream("face", draft="none", max_tokens=50)
    next(stream)
    with pytest.raises(RuntimeError, match="not come to its end"):
        _ = stream.result
    stream.close()
    assert cast("TableTarget", made.target).num_rows == 0
    assert list(stream) == []
    with pytest.raises(RuntimeError, match="not come to its end"):
        _ = stream.result


def test_a_finished_stream_keeps_its_result() -> None:
    stream = model().stream("face", max_tokens=5)
    assert list(stream) and list(stream) == []
    assert stream.result.stats.completion_tokens == 5


def test_drafters_are_made_once_per_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    made, specs = model(), []

    def create(spec: str, **context: Any) -> NGram:
        specs.append(spec)
        return NGram()

    monkeypatch.setattr(DRAFTERS, "create", create)
    for spec in ("ngram", "ngram:length=4", "ngram"):
        made.generate("face", draft=spec, max_tokens=3)
    assert specs == ["ngram", "ngram:length=4"]
    assert made.new_drafter("ngram") is not made.drafter("ngram")
    assert specs == ["ngram", "ngram:length=4", "ngram"]


def test_prepare_refuses_what_does_not_go_together() -> None:
    made = model()
    made.prepare("ngram", tree=None, rule="match")
    with pytest.raises(OutpaceError, match="takes no tree"):
        made.prepare("ngram", tree="chain", rule="match")
    with pytest.raises(OutpaceError, match="needs the law of the drafts"):
        made.prepare("ngram", tree=None, rule="speculative")


class Reader(NGram):
    """Opens another model."""

    def __init__(self, *, model: str, open_model: Callable[[str], Model]) -> None:
        super().__init__()
        self.other = open_model(model)


def test_every_drafter_opens_a_model_of_its_own_with_as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def load(source: str, *, threads: int) -> Model:
        opened.append((source, threads))
        return model()

    monkeypatch.setitem(DRAFTERS._table, "reader", f"{__name__}:Reader")
    monkeypatch.setattr("outpace.api.load", load)
    made = model()
    first, second = (cast("Reader", made.new_drafter("reader:model=a")) for _ in range(2))
    assert opened == [("a", 1)] * 2 and first.other is not second.other
