"""Options that a server has for requests that do not name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from outpace.files.chat import ChatTemplate
from outpace.server.serving import Settings
from tests.server.living import Living, living
from tests.server.tools.templates import TEMPLATES

MESSAGES = [{"role": "user", "content": "a"}]
TOOLS = [{"type": "function", "function": {"name": "tide"}}]
TEMPLATE = "{{ mood }} " + TEMPLATES["hermes"]


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    settings = Settings(defaults={"chat_template_kwargs": {"mood": "sad"}, "temperature": 0})
    with living(tmp_path_factory.mktemp("moody"), settings) as server:
        server.model.chat = ChatTemplate(TEMPLATE)
        yield server


def count(server: Living, text: str) -> int:
    return len(server.model.tokenizer.encode(text, add_special_tokens=server.model.tokenizer.bos_in_chats))


@pytest.mark.parametrize(
    ("asked", "mood"),
    [({}, "sad"), ({"chat_template_kwargs": {"mood": "a"}}, "a"), ({"chat_template_kwargs": {}}, "")],
)
@pytest.mark.parametrize("tools", [{}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "required"}])
def test_variables_of_the_template(
    moody: Living, asked: dict[str, Any], mood: str, tools: dict[str, Any]
) -> None:
    body = {"messages": MESSAGES, "max_tokens": 1, **asked, **tools}
    status, _, answer = moody.ask("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    told: dict[str, Any] = {"tools": [TOOLS[0] | {"function": _WHOLE}]} if tools else {}
    text = ChatTemplate(TEMPLATE).render(MESSAGES, mood=mood, **told)
    assert answer["usage"]["prompt_tokens"] == count(moody, text)


@pytest.mark.parametrize("prompt", ["a", [5, 6]])
def test_they_do_not_concern_texts(moody: Living, prompt: Any) -> None:
    status, _, answer = moody.ask("POST", "/v1/completions", {"prompt": prompt, "max_tokens": 2})
    assert status == 200, answer


_WHOLE = {
    "name": "tide",
    "description": "",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
}
