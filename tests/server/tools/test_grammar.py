"""Grammars that force calls, by llguidance itself: what they take is read as calls, all else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from outpace.server.tools.lark import Lark
from tests.server.tools.reading import KINDS, SCHEMAS, read
from tests.server.tools.templates import D_ALL, D_END_ALL, D_END_ONE, D_ONE, D_SEPARATOR

llguidance = pytest.importorskip("llguidance")

SPECIAL = (
    "<|end|>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", D_ALL, D_END_ALL, D_ONE, D_END_ONE, D_SEPARATOR,
)  # fmt: skip
IDS = {text: 256 + i for i, text in enumerate(SPECIAL)}
MERGED = {
    text: 256 + len(SPECIAL) + i for i, text in enumerate(('"}}', "}}", '"}', ", {", "}]", "\n<", "[{"))
}
CITY = '{"city": "Zü}\\n"}'
FIRST, SECOND = ("weather", CITY), ("get-time", "{}")


class Vocabulary:
    """The 256 bytes and the special tokens, as llguidance asks for them."""

    eos_token_id = IDS["<|end|>"]
    bos_token_id = None
    tokens = (
        *(bytes([i]) for i in range(256)),
        *(b"\xff" + text.encode() for text in SPECIAL),
        *map(str.encode, MERGED),
    )
    special_token_ids = tuple(IDS.values())

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


TOKENIZER = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary()))


def ids_of(text: str, special: dict[str, int]) -> list[int]:
    ids: list[int] = []
    while text:
        found = next((one for one in special if text.startswith(one)), None)
        ids += list(text[0].encode()) if found is None else [special[found]]
        text = text[len(found or text[0]) :]
    return ids


def judge(grammar: str, text: str, special: dict[str, int] = IDS) -> str:
    """ "taken", "begun" (more has to come) or "refused"."""
    matcher = llguidance.LLMatcher(TOKENIZER, grammar)
    assert not matcher.get_error(), matcher.get_error()
    ids = ids_of(text, special)
    if matcher.try_consume_tokens(ids) < len(ids):
        return "refused"
    return "taken" if matcher.is_accepting() else "begun"


def grammar_of(kind: str, **options: Any) -> str:
    options.setdefault("special", {text: i for text, i in IDS.items() if text in KINDS[kind].markers})
    return KINDS[kind].grammar(options.pop("schemas", SCHEMAS), **options)


def written(kind: str, *calls: tuple[str, str]) -> str:
    """Calls as the family's models write them."""
    word = "parameters" if kind == "llama" else "arguments"
    objects = [f'{{"name": "{name}", "{word}": {arguments}}}' for name, arguments in calls]
    if kind == "hermes":
        return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects)
    if kind == "qwen-coder":
        return "\n".join(
            f"<tool_call>\n<function={name}>\n"
            + "".join(
                f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in json.loads(text).items()
            )
            + "</function>\n</tool_call>"
            for name, text in calls
        )
    if kind == "mistral-args":
        return "".join(f"[TOOL_CALLS]{name}[ARGS]{arguments}" for name, arguments in calls)
    if kind == "deepseek-r1":
        bodies = [f"{D_ONE}function{D_SEPARATOR}{n}\n```json\n{text}\n```{D_END_ONE}" for n, text in calls]
        return D_ALL + "\n".join(bodies) + D_END_ALL
    if kind == "deepseek-v3.1":
        return D_ALL + "".join(f"{D_ONE}{n}{D_SEPARATOR}{text}{D_END_ONE}" for n, text in calls) + D_END_ALL
    before, behind = {
        "mistral": ("[TOOL_CALLS][", "]"),
        "granite": ("<|tool_call|>[", "]"),
        "phi": ("<|tool_call|>[", "]<|/tool_call|>"),
        "functools": ("functools[", "]"),
        "json": ("[", "]") if len(calls) > 1 else ("", ""),
        "llama": ("", ""),
    }[kind]
    return before + ", ".join(objects) + behind


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_taken_and_read(kind: str) -> None:
    grammar = grammar_of(kind)
    for calls in ([FIRST], [SECOND], [FIRST, SECOND, FIRST]):
        text = written(kind, *calls)
        several = kind == "llama" and len(calls) > 1
        assert judge(grammar, text) == ("refused" if several else "taken"), text
        if several:
            continue
        said = read(kind, text)
        assert (said.content, [name for name, _ in said.calls]) == ("", [name for name, _ in calls])
        assert [json.loads(text) for _, text in said.calls] == [json.loads(text) for _, text in calls]
        assert judge(grammar, text[:-1]) in (
            ("begun", "refused") if len(calls) > 1 or kind != "json" else ("begun",)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_such_call_is_refused(kind: str) -> None:
    grammar = grammar_of(kind)
    for text in ("I can not", "\n", " ", written(kind, ("nobody", "{}")), written(kind, FIRST) + "x"):
        assert judge(grammar, text) == "refused", text
    assert judge(grammar, "") == "begun", "an end at once is no call"
    wrong_type = ("weather", '{"days": "many"}') if kind == "qwen-coder" else ("weather", '{"city": 12}')
    for call in (wrong_type, ("weather", "{}")):
        assert judge(grammar, written(kind, call)) == "refused", "not by the schema"


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_and_one_function(kind: str) -> None:
    grammar = grammar_of(kind, parallel=False)
    assert judge(grammar, written(kind, FIRST)) == judge(grammar, written(kind, SECOND)) == "taken"
    assert judge(grammar, written(kind, FIRST, SECOND)) == "refused"
    named = grammar_of(kind, schemas={"get-time": SCHEMAS["get-time"]})
    assert judge(named, written(kind, SECOND)) == "taken" and judge(named, written(kind, FIRST)) == "refused"


@pytest.mark.parametrize("kind", KINDS)
def test_markers_are_tokens_only_where_the_vocabulary_has_them(kind: str) -> None:
    grammar = grammar_of(kind, special={})
    assert judge(grammar, written(kind, FIRST), special={}) == "taken"
    assert "<[" not in grammar
    if any(marker in IDS for marker in KINDS[kind].markers):
        assert judge(grammar, written(kind, FIRST)) == "refused"
        assert judge(grammar_of(kind), written(kind, FIRST), special={}) == "refused"


@pytest.mark.parametrize("special", [{}, {"<think>": IDS["[ARGS]"], "</think>": IDS["<|tool_call|>"]}])
def test_thoughts_may_come_first(special: dict[str, int]) -> None:
    text = written("hermes", FIRST)
    may, must = (grammar_of("hermes", special=special, **{name: True}) for name in ("may_think", "thinks"))
    thought = "<think>\nI <b> call\n{x}\n</think>\n\n"
    assert judge(may, text, special) == judge(may, thought + text, special) == "taken"
    assert judge(may, thought, special) == judge(may, "<think>\n" + text, special) == "begun"
    assert judge(must, thought[7:] + text, special) == "taken"
    assert judge(must, text, special) == "begun" and judge(must, text + "</think>" + text, special) == "taken"
    assert judge(grammar_of("hermes", special=special), thought + text, special) == "refused"


def parameters(**values: str) -> str:
    return "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"city": "two\nlines </parameter", "days": "3"}, "taken"),
        ({"city": "", "exact": "true", "where": '{"a": 1}', "tags": "[1]"}, "taken"),
        ({"city": "x", "unit": "C", "note": "null"}, "taken"),
        ({"city": "x", "point": '{"x": 1.5}'}, "taken"),
        ({"city": "x", "point": '{"x": "1"}'}, "refused"),
        ({"city": "x", "unit": "K"}, "refused"),
        ({"city": "x", "days": "x"}, "refused"),
        ({"days": "3"}, "refused"),
        ({"days": "3", "city": "x"}, "refused"),
        ({"city": "x", "other": "y"}, "refused"),
    ],
)
def test_parameters_by_the_schema(values: dict[str, str], verdict: str) -> None:
    text = f"<tool_call>\n<function=weather>\n{parameters(**values)}</function>\n</tool_call>"
    assert judge(grammar_of("qwen-coder"), text) == verdict
    if verdict == "taken":
        assert list(json.loads(read("qwen-coder", text).calls[0][1])) == list(values)


def test_literals_keep_every_letter() -> None:
    text = 'a"\\\n\t｜é🌊/#//{x}'  # noqa: RUF001
    lark = Lark({})
    assert judge(lark.text(lark.literal(text)), text) == "taken"
    assert judge(lark.text(lark.literal(text)), text[:-1]) == "begun"
