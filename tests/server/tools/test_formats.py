"""Which family a chat template is of."""

from __future__ import annotations

import pytest

from outpace.core.errors import OutpaceError
from outpace.server.tools.formats import FORMATS, format_of
from tests.server.tools import templates
from tests.server.tools.templates import TEMPLATES


def kind_of(source: str, special: tuple[str, ...] = ()) -> str | None:
    found = format_of(source, special)
    return None if found is None else found.name


@pytest.mark.parametrize("kind", TEMPLATES)
def test_templates_are_known_by_their_markers(kind: str) -> None:
    assert kind_of(TEMPLATES[kind]) == kind
    assert kind_of(TEMPLATES[kind], ("<|im_end|>", "[TOOL_CALLS]")) == (kind if kind != "json" else "mistral")


def test_every_format_has_a_template_and_a_name_of_its_own() -> None:
    assert [kind.name for kind in FORMATS] == list(dict.fromkeys(kind.name for kind in FORMATS))
    assert {kind.name for kind in FORMATS} == set(TEMPLATES)


def test_further_templates() -> None:
    assert kind_of(templates.QWEN3) == kind_of(templates.SMOLLM3) == "hermes"
    assert kind_of(templates.PHI_OWN) == "phi"


@pytest.mark.parametrize(
    ("special", "kind"),
    [
        (("<|python_tag|>", "<|eot_id|>"), "llama"),
        (("[ARGS]", "[TOOL_CALLS]"), "mistral-args"),
        (("<|tool_call|>",), "granite"),
        (("<|tool_call|>", "<|/tool_call|>"), "phi"),
        (("<|im_end|>",), "json"),
    ],
)
def test_special_tokens_say_what_a_template_does_not(special: tuple[str, ...], kind: str) -> None:
    assert kind_of("{{ tools }}{{ messages }}", special) == kind
    assert kind_of("{{ messages }}", special) is None


@pytest.mark.parametrize(
    "source",
    [
        templates.NO_TOOLS,
        "{# tools <tool_call> #}{{ messages }}",
        "{% set tools = [] %}<tool_call>",
        "{{ messages[0].tools }}<tool_call>",
        "Use your tools, and <tool_call>! {{ messages }}",
        "",
        "{{ tools }}<tool_call>{{ name }}<arg_key>",
        "{{ tools }}<|tool_call>call:f{}<tool_call|>",
    ],
)
def test_none(source: str) -> None:
    assert format_of(source, ("<tool_call>",)) is None


@pytest.mark.parametrize(
    ("source", "message"),
    [("a\n{% if %}", "malformed in line 2"), ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "too deeply")],
)
def test_malformed_templates(source: str, message: str) -> None:
    with pytest.raises(OutpaceError, match=message):
        format_of(source)
