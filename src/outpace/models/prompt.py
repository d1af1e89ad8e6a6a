"""A prompt to token ids: a text as it is, or messages through the model's chat template.

A user's words stay text: the names of special tokens in a message, a tool or a template's variable become
tokens only on request. A template may do anything with these texts, so the names carry a mark in their middle
while it runs; a name that comes out with its mark is not read as a token.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote

from outpace.core.errors import OutpaceError
from outpace.core.notes import note
from outpace.core.options import shown
from outpace.files.tokenizer import Tokenizer
from outpace.models.options import Prompting, Text

ROLES = ("system", "user", "assistant", "tool")


class Chat(Protocol):
    """What renders messages."""

    def render(self, messages: Sequence[Mapping[str, Any]], /, **variables: Any) -> str:
        """The prompt's text."""


def prompt_ids(tokenizer: Tokenizer, chat: Chat | None, prompt: Text, about: Prompting) -> list[int]:
    """The token ids of a text or of messages, with all options about it. Raises OutpaceError."""
    parse_special, system, tools = about["parse_special"], about["system"], about["tools"]
    specials = _Specials(() if parse_special else special_texts(tokenizer))
    if about["raw"] or chat is None:
        what = "a raw prompt" if about["raw"] else "the prompt of a model without a chat template"
        if not isinstance(prompt, str):
            raise OutpaceError(f"{what} is {shown(prompt)}, accepted are a text and outpace.Prompt(ids)")
        for name, given in (
            ("system message", system),
            ("tools", tools),
            ("variables", about["chat_template_kwargs"]),
        ):
            if given is not None:
                raise OutpaceError(f"{what} takes no {name}; write it into the prompt")
        return _raw_ids(tokenizer, prompt, specials, parse_special=parse_special)
    variables = _variables(tools, about["chat_template_kwargs"])
    try:
        messages, variables = specials.marked(_messages(prompt, system)), specials.marked(variables)
    except RecursionError:  # such as a list that holds itself
        raise OutpaceError("messages, tools and chat_template_kwargs must not be nested so deeply") from None
    text = chat.render(messages, **variables)
    spans = specials.spans(text)
    if len(spans) == 1:
        return tokenizer.encode(text, add_special_tokens=tokenizer.bos_in_chats)
    return tokenizer.encode_spans(spans, add_special_tokens=tokenizer.bos_in_chats)


def special_texts(tokenizer: Tokenizer) -> tuple[str, ...]:
    """How the special tokens of a tokenizer are written."""
    names = [tokenizer.token(token) for token in getattr(tokenizer, "special_ids", ())]
    return tuple(sorted(filter(None, names)))


def _raw_ids(tokenizer: Tokenizer, prompt: str, specials: _Specials, *, parse_special: bool) -> list[int]:
    if not parse_special and (found := specials.found_in(prompt)):
        note(f"special tokens in the prompt are read as text ({found} ...); parse_special makes them tokens")
        return tokenizer.encode(prompt, add_special_tokens=True, parse_special=False)
    if parse_special and tokenizer.begins_with_bos(prompt):
        bos = tokenizer.token(tokenizer.bos_id or 0)
        note(f"the prompt begins with {bos} itself, so no other is put in front")
    return tokenizer.encode(prompt, add_special_tokens=True)


def _messages(prompt: Text, system: str | None) -> list[Mapping[str, Any]]:
    """The messages of a prompt, each with a role that is known and a content that a template can read."""
    wrong = isinstance(prompt, bytes | Mapping) or not isinstance(prompt, Iterable)
    if wrong or getattr(prompt, "ndim", 1) != 1:  # an array without dimensions has __iter__ too
        raise OutpaceError(
            f"the prompt is {shown(prompt)}, accepted are a text, messages and outpace.Prompt(ids)"
        )
    messages: list[Any] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not messages:
        raise OutpaceError("the prompt has no messages, accepted are 1 message or more")
    for message in messages:
        if not isinstance(message, Mapping):
            raise OutpaceError(f"a message is {shown(message)}, accepted are mappings with role and content")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise OutpaceError(f"unknown role {shown(role)}, accepted are {', '.join(ROLES)}")
        content = message.get("content")
        if not (content is None or isinstance(content, str | list | tuple)):
            raise OutpaceError(f"the content of a message is {shown(content)}, accepted are texts")
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def _variables(tools: Sequence[Mapping[str, Any]] | None, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    variables = dict(kwargs or {})
    if "messages" in variables or (tools is not None and "tools" in variables):
        name = "messages" if "messages" in variables else "tools"
        raise OutpaceError(f"chat_template_kwargs has {name}, accepted are variables not given otherwise")
    return variables if tools is None else {**variables, "tools": list(tools)}


class _Specials:
    """The written forms of special tokens, and a mark that nobody can guess."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._pattern = _pattern(texts) if texts else None
        # Letters for private use: no filter changes them, they have no upper case.
        self._mark = "".join(chr(0xE000 + secrets.randbelow(6400)) for _ in range(8))

    def found_in(self, text: str) -> str | None:
        """The first of them that is written in a text."""
        found = None if self._pattern is None else self._pattern.search(text)
        return None if found is None else found[1]

    def marked(self, value: Any) -> Any:
        """A value with the mark behind the first letter of each, in all the texts that it is made of."""
        if isinstance(value, str):
            return value if self._pattern is None else self._pattern.sub(r"\g<0>" + self._mark, value)
        if isinstance(value, Mapping):
            return {self.marked(key): self.marked(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.marked(inner) for inner in value]
        return value

    def spans(self, text: str) -> list[tuple[str, bool]]:
        """The text without marks, in spans (text, whether special tokens are read in it)."""
        written = (self._mark, json.dumps(self._mark)[1:-1], quote(self._mark))
        parts = re.split("|".join(map(re.escape, written)), text)
        spans = []
        for part in parts[:-1]:
            # A token that shares a letter with a span that is not read stays text.
            spans += [(part[:-1], True), (part[-1:], False)]
        return [*spans, (parts[-1], True)]


@lru_cache(maxsize=8)
def _pattern(texts: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the first letter of each, also where one begins within another; templates may change the case."""
    return re.compile(f"(?=({'|'.join(map(re.escape, texts))})).", re.IGNORECASE | re.DOTALL)
