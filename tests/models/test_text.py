"""The five-line use on a Markov table with a tokenizer of letters: prompts, options, streams."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.core.sampling import Sampling
from outpace.drafters import DRAFTERS
from outpace.drafters.lookup.ngram import NGram
from outpace.files import LoadedModel
from outpace.models.face import MOST_DRAFTERS
from outpace.models.grammar import Grammar
from outpace.models.text import Model, load
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.byte_vocabulary import byte_tokenizer
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
        ([1, 2, 3], {}, "a message is 1, accepted are mappings with role and content"),
        (np.array([1, 2]), {}, "a message is "),
        (np.array(1), {}, "the prompt is array(1), accepted are a text, messages and outpace.Prompt(ids)"),
        ([{"role": np.zeros(0), "content": "a"}], {}, "unknown role array("),
        (b"hi", {}, "the prompt is b'hi', accepted are a text, messages and outpace.Prompt(ids)"),
        ({"role": "user", "content": "a"}, {}, "accepted are a text, messages and outpace.Prompt(ids)"),
        (3, {}, "the prompt is 3, accepted are a text, messages and outpace.Prompt(ids)"),
        ([{"role": "user", "content": 3}], {}, "the content of a message is 3, accepted are texts"),
        ([{"role": ["user"], "content": "a"}], {}, "unknown role ['user']"),
        (["a"], {"raw": True}, "a raw prompt is ['a'], accepted are a text and outpace.Prompt(ids)"),
        ("a", {"raw": True, "tools": [{}]}, "takes no tools"),
        ("a", {"raw": True, "chat_template_kwargs": {"a": 1}}, "takes no variables"),
        ("a", {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs has messages"),
        ("a", {"tools": [{}], "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs has tools"),
        (None, {}, "the prompt is None, accepted are a text, messages and outpace.Prompt(ids)"),
        ("a", {"raw": True, "system": "b"}, "takes no system message"),
        ([{"role": "user", "content": "a"}], {"raw": True}, "a raw prompt is ["),
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


WRONG: dict[str, list[Any]] = {
    "draft": [3, b"ngram", ["ngram"], NGram, object()],
    "tree": [3, b"chain", object()],
    "rule": [3, None, Match, object()],
    "system": [3, b"a", ["a"]],
    "raw": [1, "true", None],
    "tools": ["a", {"a": 1}, 3, [3], ["a"]],
    "chat_template_kwargs": ["a", [1], 3, {1: 2}],
    "parse_special": [1, "true", None],
    "stop": [3, b"a", [3], ["a", b"b"], "", ["a", ""]],
    "show_tokens": [3, "3", ["3"], [-1], [2**40], [3.0], {3: 1}],
    "logit_bias": [3, [3], "3", {"3": 1.0}, {3: "1"}, {3: float("nan")}, {-1: 1.0}, {2**70: 1.0}, {3.0: 1.0}],
    "presence_penalty": ["1", None, True, float("nan"), float("inf"), [1.0]],
    "frequency_penalty": ["1", None, True, float("nan"), -float("inf"), np.zeros(2)],
    "repetition_penalty": ["1", None, True, 0, -1.0, float("nan"), float("inf"), 10**400],
    "min_tokens": [3.0, True, "3", None, -1, 2**70, 129],
    "ignore_eos": [1, "true", None],
    "stop_token_ids": [3, "3", ["3"], [-1], [2**40], [3.0], {3: 1}],
    "max_tokens": [3.0, True, "3", 0, -1, 2**70, [3]],
    "sampling": [0.5, {"temperature": 1.0}, Sampling, "greedy"],
    "temperature": ["1", None, True, float("nan"), float("inf"), -1, [1.0], np.zeros(2), 10**400],
    "top_k": [1.0, "1", None, False, -1, 2**31, 2**70],
    "top_p": ["1", None, True, 0, -1, 1.5, float("nan"), [0.5]],
    "min_p": ["1", None, True, -0.1, 1.5, float("nan")],
    "seed": [1.0, "1", True, -1, 2**64, 10**5000],
    "logprobs": [1.0, "1", True, -1, 21, 2**70, [1]],
    "grammar": ["json", 3, {"type": "object"}, Grammar],
}


def test_every_option_of_a_call_is_tried() -> None:
    for call in (Model.generate, Model.stream):
        options = [p for p in inspect.signature(call).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert [option.name for option in options] == list(WRONG)
    assert {*inspect.signature(Model.prompt_ids).parameters} <= {"self", "prompt", *WRONG}


@pytest.mark.parametrize("option", WRONG)
@pytest.mark.parametrize("call", ["generate", "stream"])
def test_wrong_types_and_values_name_the_option(call: str, option: str) -> None:
    for value in WRONG[option]:
        with pytest.raises(OutpaceError) as caught:
            getattr(model(), call)("face", **{option: value})
        message = str(caught.value)
        assert message.startswith((f"{option} ", f"{option.rstrip('s')} ")) or option == "stop", message
        assert ("accepted are" in message or option == "stop") and message.isprintable()


def test_a_text_shows_special_tokens_on_request() -> None:
    """The model writes one special token over and over, which is no end."""
    tokenizer = byte_tokenizer(["<call>", "<end>"])
    call, end = 256, 257
    target = TableTarget.random(vocab_size=258, seed=6)
    loaded = SimpleNamespace(config=None, weights=None, tokenizer=tokenizer, chat=None)
    made = Model(cast("LoadedModel", loaded), target, name="bytes", num_threads=1)
    always: dict[str, Any] = {"max_tokens": 3, "logit_bias": {call: 1000.0}}
    assert made.generate("a", **always).text == made.generate("a", show_tokens=[end], **always).text == ""
    shown = made.generate("a", show_tokens=[call, end], **always)
    assert (shown.text, shown.token_ids) == ("<call>" * 3, [call] * 3)
    assert "".join(made.stream("a", show_tokens=[call], stop="l><", **always)) == "<cal"


def test_what_is_naturally_none_may_be() -> None:
    made = model(context_length=40)
    plain = made.generate("face", draft="none", max_tokens=7)
    options: dict[str, Any] = {"tree": None, "system": None, "stop": None, "tools": None}
    options |= {"chat_template_kwargs": None, "draft": None}
    assert made.generate("face", max_tokens=7, **options).token_ids == plain.token_ids
    longest = made.generate("face", max_tokens=None)
    assert longest.finish_reason == "length"
    assert longest.token_ids == made.generate("face", max_tokens=10**6).token_ids
    assert longest.prompt_tokens + len(longest.token_ids) == 41
    texts = {made.generate("face", max_tokens=None, temperature=2.0, seed=None).text for _ in range(5)}
    assert len(texts) > 1


def test_numbers_of_numpy_are_numbers() -> None:
    made: Any = model()
    ours = made.generate("face", max_tokens=9, temperature=0.5, top_k=3, top_p=0.75, min_p=0.25, seed=7)
    theirs = made.generate(
        "face", max_tokens=np.int64(9), temperature=np.float32(0.5), top_k=np.uint8(3),
        top_p=np.float16(0.75), min_p=np.float64(0.25), seed=np.uint64(7), raw=np.bool_(False),
    )  # fmt: skip
    assert theirs.token_ids == ours.token_ids


LOAD: dict[str, list[Any]] = {
    "threads": [1.5, 1.0, True, "2", 0, -1, 1025, 2**70, [1]],
    "quantize": ["q5", 8, True, ["q8"], b"q8"],
    "context_length": [3.5, True, "9", 0, -1, 2**70],
    "kv": ["f8", 16, None, ["f16"]],
    "cache_tokens": [64.0, True, "64", 15, -1, 2**70],
    "progress": [3, "bar", [print]],
}


@pytest.mark.parametrize("option", inspect.signature(load).parameters)
def test_wrong_types_of_load_cost_no_waiting(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.files.open_model", None)
    cases = (
        [({"source": value}) for value in (3, None, b"a", ["a"])]
        if option == "source"
        else [{"source": "a", option: value} for value in LOAD[option]]
    )
    for options in cases:
        with pytest.raises(OutpaceError, match=f"^{option} is .*, accepted are ") as caught:
            load(**options)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("call", ["drafter", "new_drafter", "prepare"])
def test_wrong_types_of_drafters(call: str) -> None:
    options = {"tree": None, "rule": "match"} if call == "prepare" else {}
    for value in (3, ["ngram"], NGram):
        with pytest.raises(OutpaceError, match=r"^draft is .*, accepted are texts"):
            getattr(model(), call)(value, **options)
        with pytest.raises(OutpaceError, match=r"^tree is .*, accepted are texts, TreePolicies and None"):
            getattr(model(), call)("ngram", **{**options, "tree": value})


def test_a_path_is_a_drafters_name_as_it_is_every_text() -> None:
    assert isinstance(model().new_drafter(cast("str", Path("ngram"))), NGram)


@pytest.mark.parametrize("name", ["x" * 100_000, "a\0b", "x/" * 50_000 + "y", "a/" + "b" * 300, "~" * 5000])
def test_names_that_no_file_can_have_are_one_line(name: str) -> None:
    for source in (name, Path(name)):
        with pytest.raises(OutpaceError) as caught:
            load(source)
        assert str(caught.value).isprintable()


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


def test_a_with_block_gives_the_row_back() -> None:
    made = model()
    target = cast("TableTarget", made.target)
    with pytest.raises(ZeroDivisionError), made.stream("face", draft="none", max_tokens=50) as stream:
        next(stream)
        assert target.num_rows == 1
        1 / 0  # noqa: B018
    assert target.num_rows == 0 and list(stream) == []
    with made.stream("face", draft="none", max_tokens=5) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.result.text and target.num_rows == 0


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


def test_a_model_keeps_so_many_drafters_and_no_more() -> None:
    made = model()
    kept = [weakref.ref(made.drafter(f"ngram:length={length}")) for length in range(1, MOST_DRAFTERS + 11)]
    gc.collect()
    assert [drafter() is None for drafter in kept] == [True] * 10 + [False] * MOST_DRAFTERS
    with pytest.raises(OutpaceError):
        made.drafter("ngram:length=no")
    assert made.drafter("ngram:length=11") is kept[10](), "a spec that is refused costs nobody a place"


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

    def load(source: str, options: Mapping[str, Any], beside: object) -> Model:
        opened.append((source, options, beside))
        return model()

    monkeypatch.setitem(DRAFTERS._table, "reader", f"{__name__}:Reader")
    monkeypatch.setattr("outpace.models.text._load", load)
    made = model()
    first, second = (cast("Reader", made.new_drafter("reader:model=a")) for _ in range(2))
    assert opened == [("a", {"threads": 1}, made.target)] * 2 and first.other is not second.other
