"""Messages of OpenAI's interface as chat templates expect them.

Templates follow transformers: content is one text, the arguments of a call are an object, and a message
without calls has no `tool_calls`. Some put arguments together as text, and Mistral's take no other ids than
those of nine letters or digits; both are read off the template.
https://huggingface.co/docs/transformers/chat_extras, https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.core.options import shown
from outpace.server.tools.mistral import CALLS, ID_LENGTH

ROLES = ("system", "developer", "user", "assistant", "tool")
# `'...' + call.arguments + '...'`, or `{{ call.arguments }}` where nothing asks whether it is a text.
_AS_TEXT = re.compile(r"""(\+|\{\{-?)\s*[\w.'"\[\]]*\barguments\b['"\]]*\s*(\+|-?\}\})""")
_ASKS = re.compile(r"\barguments\b['\"\]]*\s+is\s+(not\s+)?(string|mapping)")
_KEPT = ("name", "reasoning_content")  # further fields that templates read


def template_messages(messages: Any, source: str = "") -> list[dict[str, Any]]:
    """The messages for the chat template `source`. Raises OutpaceError for the first that is malformed."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise OutpaceError(f"messages is {shown(messages)}, accepted are lists of 1 message or more")
    template = _Template(source)
    calls: dict[str, str] = {}
    return [_message(f"messages[{i}]", message, template, calls) for i, message in enumerate(messages)]


class _Template:
    """What a template expects of calls."""

    def __init__(self, source: str) -> None:
        self._as_text = bool(_AS_TEXT.search(source)) and not _ASKS.search(source)
        self._short_ids = CALLS in source

    def arguments(self, text: str, value: Mapping[str, Any]) -> Any:
        return text if self._as_text else value

    def id(self, given: str) -> str:
        """The id itself, or one made of it of the length that the template takes."""
        if not self._short_ids or re.fullmatch(rf"[a-zA-Z0-9]{{{ID_LENGTH}}}", given):
            return given
        return hashlib.sha256(given.encode(errors="replace")).hexdigest()[:ID_LENGTH]


def _message(where: str, message: Any, template: _Template, calls: dict[str, str]) -> dict[str, Any]:
    """One message; `calls` collects the names of the functions called so far by the ids of the calls."""
    if not isinstance(message, Mapping):
        raise OutpaceError(f"{where} is {shown(message)}, accepted are objects with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise OutpaceError(f"{where}.role is {shown(role)}, accepted are {', '.join(ROLES)}")
    found: dict[str, Any] = {"role": "system" if role == "developer" else role}
    found |= {name: message[name] for name in _KEPT if isinstance(message.get(name), str)}
    given = message.get("tool_calls")
    if given is not None and role != "assistant":
        raise OutpaceError(f"{where}.tool_calls is of the role {role}, accepted are those of assistant")
    said = role == "assistant" and bool(given)
    found["content"] = _content(f"{where}.content", message.get("content"), may_be_none=said)
    if said:
        found["tool_calls"] = _calls(f"{where}.tool_calls", given, template, calls)
    if role == "tool":
        call = message.get("tool_call_id")
        if not isinstance(call, str) or call not in calls:
            known = ", ".join(map(shown, calls)) or "none: no message before it has tool_calls"
            raise OutpaceError(
                f"{where}.tool_call_id is {shown(call)}, accepted are the ids of calls: {known}"
            )
        found |= {"tool_call_id": template.id(call), "name": calls[call]}
    return found


def _content(where: str, content: Any, *, may_be_none: bool) -> str:
    if content is None and may_be_none:
        return ""  # templates put it together with other texts
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise OutpaceError(f"{where} is {shown(content)}, accepted are texts and lists of parts of type text")
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else part
        if kind != "text":
            raise OutpaceError(f"{where}[{place}] is of the type {shown(kind)}, accepted is text")
        if not isinstance(text := part.get("text"), str):
            raise OutpaceError(f"{where}[{place}].text is {shown(text)}, accepted are texts")
        texts.append(text)
    return "\n".join(texts)


def _calls(where: str, given: Any, template: _Template, calls: dict[str, str]) -> list[dict[str, Any]]:
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise OutpaceError(f"{where} is {shown(given)}, accepted are lists of calls")
    return [_call(f"{where}[{place}]", call, template, calls) for place, call in enumerate(given)]


def _call(where: str, call: Any, template: _Template, calls: dict[str, str]) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise OutpaceError(f"{where} is {shown(call)}, accepted are objects with id, type and function")
    kind, function = call.get("type", "function"), call.get("function")
    if kind != "function":
        raise OutpaceError(f'{where}.type is {shown(kind)}, accepted is "function"')
    if not isinstance(function, Mapping):
        raise OutpaceError(f"{where}.function is {shown(function)}, accepted are objects with a name")
    for name, value in ((f"{where}.id", call.get("id")), (f"{where}.function.name", function.get("name"))):
        if not isinstance(value, str) or not value:
            raise OutpaceError(f"{name} is {shown(value)}, accepted are texts of a letter or more")
    text = function.get("arguments")
    try:
        value = json.loads(text or "{}") if isinstance(text, str | None) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise OutpaceError(f"{where}.function.arguments is {shown(text)}, accepted are JSON texts of objects")
    calls[call["id"]] = function["name"]
    arguments = template.arguments(text or "{}", value)
    return {
        "id": template.id(call["id"]),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }
