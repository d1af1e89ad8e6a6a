"""Requests of the soak, with the answers that plain decoding in the library gives them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.models.grammar import Grammar
from outpace.models.text import Model
from outpace.server.tools import Arguments, CallBegins, Content, Delta, template_messages, tool_use

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
WORDS = "the harbour was quiet and two boats lay at the pier when the wind turned in the afternoon".split()
PATTERN = "(the (boat|wind|pier) ){2,9}turned"
SCHEMA = {
    "type": "object",
    "properties": {"port": {"enum": ["Bergen", "Oslo"]}, "boats": {"type": "integer", "maximum": 99}},
    "required": ["port", "boats"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": SCHEMA}}]


@dataclass(frozen=True)
class Known:
    """A request, and the texts of its n answers; calls stand in a text by name and arguments."""

    kind: str
    path: str
    body: dict[str, Any]
    texts: list[str]


def known(model: Model, count: int, max_tokens: int, *, seed: int = 0) -> list[Known]:
    """So many requests of all kinds; calls where the model's chat template takes tools that are read."""
    rng = random.Random(seed)
    kinds: dict[str, dict[str, Any]] = {
        "chat": {},
        "texts": {},
        "schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        "pattern": {"structured_outputs": {"regex": PATTERN}},
        "call": {"tools": TOOLS, "tool_choice": "required"},
    }
    if not _takes_tools(model):
        del kinds["call"]
    made = []
    for number in range(count):
        kind = list(kinds)[number % len(kinds)]
        body = {
            **kinds[kind],
            "temperature": rng.choice([0, 0.8]),
            "seed": 10 * number,
            "max_tokens": rng.randint(1, max_tokens),
            "n": rng.choice([1, 1, 2, 3]),
        }
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 60)))
        if kind in ("texts", "pattern"):
            made.append(Known(kind, TEXT, {**body, "prompt": text}, []))
        else:
            made.append(Known(kind, CHAT, {**body, "messages": [{"role": "user", "content": text}]}, []))
    for one in made:
        one.texts.extend(_plain(model, one))
    return made


def _takes_tools(model: Model) -> bool:
    try:
        tool_use(getattr(model.chat, "source", None), model.tokenizer, tools=TOOLS)
    except OutpaceError:
        return False
    return True


def _plain(model: Model, one: Known) -> list[str]:
    """The texts of plain decoding."""
    body = one.body
    options: dict[str, Any] = {name: body[name] for name in ("temperature", "max_tokens")}
    prompt: Any = body.get("prompt", body.get("messages"))
    read = None
    if one.path == TEXT:
        options |= {"raw": True, "parse_special": True}
    if one.kind == "schema":
        options["grammar"] = Grammar.json_schema(SCHEMA)
    elif one.kind == "pattern":
        options["grammar"] = Grammar.regex(PATTERN)
    elif one.kind == "call":
        source = getattr(model.chat, "source", "")
        use = tool_use(source, model.tokenizer, tools=body["tools"], tool_choice=body["tool_choice"])
        told = use.messages(template_messages(prompt, source))
        prompt = Prompt(model.prompt_ids(told, chat_template_kwargs=use.variables))
        tail = model.tokenizer.decode(list(prompt[-16:]), skip_special_tokens=False)
        options |= {"grammar": Grammar.lark(use.grammar(tail) or ""), "show_tokens": sorted(use.shown)}
        read = use
    texts = []
    for number in range(body["n"]):
        text: str = model.generate(prompt, draft=None, seed=body["seed"] + number, **options).text
        if read is not None:
            reader = read.reader(tail)
            text = _written([*reader.push(text), *reader.finish()])
        texts.append(text)
    return texts


def _written(deltas: Iterable[Delta]) -> str:
    text = ""
    for delta in deltas:
        if isinstance(delta, Content | Arguments):
            text += delta.text
        elif isinstance(delta, CallBegins):
            text += delta.name
    return text


def whole_texts(answer: Mapping[str, Any]) -> list[str]:
    """The texts of an answer that is not streamed."""
    return [_of(choice.get("message", choice)) for choice in answer["choices"]]


def streamed_texts(chunks: Iterable[Mapping[str, Any]], count: int) -> list[str]:
    """Those of so many answers, as far as they have come."""
    texts: defaultdict[int, str] = defaultdict(str)
    for chunk in chunks:
        for choice in chunk.get("choices", ()):  # an error has none
            texts[choice["index"]] += _of(choice.get("delta", choice))
    return [texts[number] for number in range(count)]


def _of(said: Mapping[str, Any]) -> str:
    calls: Sequence[Any] = said.get("tool_calls") or ()
    parts = [said.get("content") or "", said.get("text") or ""]
    for call in calls:
        parts += [call["function"].get("name") or "", call["function"]["arguments"]]
    return "".join(parts)
