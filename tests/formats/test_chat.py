"""Chat templates against transformers' `apply_chat_template`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from outpace.core.errors import FormatError, OutpaceError
from outpace.formats.chat import ChatTemplate

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}
    {{- message['content'] | trim }}{{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""
TOOLS = """{%- if tools %}
    {% for tool in tools %}
        {{ tool | tojson(indent=2) }}
        {{ tool | tojson }}
    {% endfor %}
{%- endif %}
{% for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
    {% generation %}
    [{{ message.role }}] {{ message.content }}{{ eos_token }}
    {% endgeneration %}
    {% if loop.index > 4 %}{% break %}{% endif %}
{% endfor %}
{{ strftime_now('%Y') | length }} {{ enable_thinking | default(true) }}
{% if documents is none or not documents %}no documents{% endif %}
"""
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What causes tides?"}],
    [
        {"role": "system", "content": "Answer in <one> line & 'no more'."},
        {"role": "user", "content": " hello "},
    ],
    [
        {"role": "user", "content": "Grüße 🙂\n\nsecond line"},
        {"role": "assistant", "content": "{{ not a template }}"},
        {"role": "user", "content": ""},
    ],
]
TOOL = {"type": "function", "function": {"name": "tide", "description": "Höhe <in> m", "parameters": {}}}


def transformers_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(models.BPE({"<bos>": 0, "<eos>": 1, "a": 2}, []))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    made.chat_template = template
    return made


@pytest.mark.parametrize("extra", [{}, {"tools": [TOOL]}, {"enable_thinking": False}], ids=str)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["user", "system", "turns"])
@pytest.mark.parametrize("template", [SMOLLM2, GEMMA, TOOLS], ids=["smollm2", "gemma", "tools"])
def test_rendering_equals_transformers(
    template: str, messages: list[dict[str, Any]], add_generation_prompt: bool, extra: dict[str, Any]
) -> None:
    options = {"add_generation_prompt": add_generation_prompt, **extra}
    theirs = transformers_tokenizer(template).apply_chat_template(messages, tokenize=False, **options)
    assert ChatTemplate(template, "<bos>", "<eos>").render(messages, **options) == theirs


def test_the_default_system_prompt_of_a_template_stays() -> None:
    assert ChatTemplate(SMOLLM2).render([{"role": "user", "content": "hi"}]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("named", [False, True])
def test_folder_of_transformers(tmp_path: Path, named: bool) -> None:
    """transformers writes chat_template.jinja; older versions wrote tokenizer_config.json."""
    theirs = transformers_tokenizer(GEMMA)
    theirs.save_pretrained(tmp_path)
    expected = ChatTemplate(GEMMA, "<bos>", "<eos>")
    assert ChatTemplate.from_folder(tmp_path) == expected

    (tmp_path / "chat_template.jinja").unlink()
    assert ChatTemplate.from_folder(tmp_path) is None
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    both = [{"name": "tool_use", "template": TOOLS}, {"name": "default", "template": GEMMA}]
    config["chat_template"] = both if named else GEMMA
    config["bos_token"] = {"content": "<bos>", "special": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert ChatTemplate.from_folder(tmp_path) == expected


def test_the_first_of_several_templates_without_a_default(tmp_path: Path) -> None:
    config = {"chat_template": [{"name": "rag", "template": "r"}, {"name": "tool_use", "template": "t"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert ChatTemplate.from_folder(tmp_path) == ChatTemplate("r")


def test_gguf() -> None:
    metadata = {
        "tokenizer.chat_template": GEMMA,
        "tokenizer.ggml.tokens": ["<pad>", "<eos>", "<bos>"],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
    }
    assert ChatTemplate.from_gguf(metadata) == ChatTemplate(GEMMA, "<bos>", "<eos>")
    assert ChatTemplate.from_gguf({"tokenizer.chat_template": "x"}) == ChatTemplate("x")
    assert ChatTemplate.from_gguf({}) is None
    with pytest.raises(FormatError, match="must be a string, not a list"):
        ChatTemplate.from_gguf({"tokenizer.chat_template": [GEMMA]})


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"chat_template": 3}', "must be a string or a list"), ("{", "tokenizer_config.json"), ("3", "object")],
)
def test_malformed_folder(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(FormatError, match=message):
        ChatTemplate.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{% if %}", "malformed in line 2"),
        ("{{ raise_exception('only\nusers') }}", "refuses the messages: only users"),
        ("{{ messages[7].content + 'x' }}", "refuses the messages"),
        ("{{ 1 / 0 }}", "fails with ZeroDivisionError"),
        ("{{ messages.append(1) }}", "refuses the messages: .*unsafe"),
        ("{{ ''.__class__.__mro__ }}", "refuses the messages: .*unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError: Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ messages | tojson(indent=messages) }}", "fails with"),
    ],
)
def test_failures_are_one_line(template: str, message: str) -> None:
    with pytest.raises(OutpaceError, match=message) as caught:
        ChatTemplate(template).render([{"role": "user", "content": "hi"}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("messages", [["hi"], [{"content": "hi"}], [{"role": 3, "content": "hi"}]])
def test_messages_need_a_role(messages: Any) -> None:
    with pytest.raises(OutpaceError, match="role"):
        ChatTemplate(SMOLLM2).render(messages)
