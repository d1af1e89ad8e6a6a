"""Chat templates against transformers' `apply_chat_template`."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.chat import ChatTemplate

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
    ("config", "template"),
    [
        ({"chat_template": [{"name": ["a"], "template": "x"}, {"name": {}, "template": "y"}]}, "x"),
        ({"chat_template": [{"template": "x"}, 3, None, {"name": "default", "template": "y"}]}, "y"),
        ({"chat_template": []}, None),
        ({"chat_template": [3, ["default", "x"]]}, None),
        ({"chat_template": [{"name": "default"}]}, None),
        ({"chat_template": "x", "bos_token": {"content": 3}, "eos_token": ["</s>"]}, "x"),
    ],
)
def test_odd_lists_of_templates(tmp_path: Path, config: dict[str, Any], template: str | None) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert ChatTemplate.from_folder(tmp_path) == (None if template is None else ChatTemplate(template))


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless", "long", "latin-1", "list of lists"])
def test_what_is_no_template_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "chat_template.jinja"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "list of lists":
        (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"template": ["x"]}]}')
    else:
        path.write_bytes(b"x" * (1 << 21) if kind == "long" else b"caf\xe9")
    with pytest.raises(FormatError) as caught:
        ChatTemplate.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token_id", ["1", 1.0, None, [1], -1, 3, 2**70])
@pytest.mark.parametrize("tokens", [["a", "b", "c"], 3, None, {"a": 1}])
def test_odd_tokens_of_gguf(token_id: Any, tokens: Any) -> None:
    metadata = {"tokenizer.chat_template": "x", "tokenizer.ggml.tokens": tokens}
    metadata |= {"tokenizer.ggml.bos_token_id": token_id, "tokenizer.ggml.eos_token_id": token_id}
    assert ChatTemplate.from_gguf(metadata) == ChatTemplate("x")


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


NS = "{% set ns = namespace(x='ab', l=[1], t=(1,), d={}) %}"
LOOP, END = "{% for i in range(100000) %}", "{% endfor %}"
DEEP = NS + "{% for i in range(60) %}{% set ns.l = [ns.l] * 2 %}{% set ns.t = (ns.t,) * 2 %}{% endfor %}"
BOMBS = [
    # steps
    LOOP * 3 + "x" + END * 3,
    LOOP * 2 + END * 2,
    LOOP + "{% for i in range(100000) if false %}{% endfor %}" + END,
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for x in range(9) recursive %}{% if loop.depth < 60 %}{{ loop(range(9)) }}{% endif %}{% endfor %}",
    LOOP + "{{ range(100000) | map('string') | list | length }}" + END,
    LOOP + "{{ ('a' * 1000000) | upper | length }}" + END,
    LOOP + "{{ ('b' ~ 'a' * 500000) in ('a' * 1000000) }}" + END,
    LOOP + "{{ ('a' * 1000000).rfind('b' ~ 'a' * 500000) }}" + END,
    # texts
    LOOP + "y" * 100000 + END,
    *(
        NS + LOOP + "{% set ns.x = " + doubled + " %}" + END
        for doubled in (
            "ns.x ~ ns.x", "ns.x + ns.x", "[ns.x, ns.x] | join", "ns.x.join([ns.x, ns.x])",
            "ns.x | replace('a', ns.x)", "ns.x.replace('a', ns.x)", "'%s%s' % (ns.x, ns.x)",
            "'{0}{0}'.format(ns.x)", "'%s%s' | format(ns.x, ns.x)", "ns.x * 2", "ns.x | indent(ns.x)",
        )
    ),
    NS + LOOP + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}" + END,
    NS + LOOP + "{% set ns.l = ns.l + ns.l[0:] %}" + END,
    *(
        "{{ " + wide + " }}"
        for wide in (
            "'a' * 10 ** 10", "10000000000 * 'a'", "[1] * 1000000000", "9 ** 9 ** 9",
            "'a' | center(10000000000)",
            "'a'.ljust(10000000000)", "'a'.center(10000000000, 'b')", "'%10000000000d' % 1",
            "'%*d' % (10000000000, 1)", "'%10000000000d' | format(1)", "'%*d' | format(10000000000, 1)",
            "('%(a)s' * 20000) % {'a': 'x' * 100000}", "'{:10000000000}'.format(1)",
            "'{:{}}'.format(1, 10000000000)", "'{a:10000000000}'.format_map({'a': 1})",
            "'{:.10000000000f}' | attr('format')(1.5)", "('{0}' * 20000).format('x' * 100000)",
            "('a' * 1000000).replace('', 'x' * 1000000)", "('a' * 1000000) | replace('', 'x' * 1000000)",
            "('a' * 1000000).join('b' * 1000000)", "('a\n' * 100000) | indent('x' * 100000)",
            "('a\n' * 100000) | indent(100000)", "[1] | tojson(indent=10000000000)",
            "[1] | batch(10000000000, 'x') | list", "[1] | slice(10000000000) | list",
        )
    ),
    # lists in lists, each twice in the next
    *(
        DEEP + "{{ " + use + " }}"
        for use in (
            "ns.l", "ns.l | string", "ns.l | tojson", "'a' ~ ns.l", "'%s' % (ns.l,)", "'{}'.format(ns.l)",
            "'{!r}'.format(ns.l)", "ns.l == [ns.l]", "ns.l is eq([ns.l])", "[ns.l].index(ns.l)",
            "ns.d[ns.t]", "ns.d.get(ns.t)", "ns.t in ns.d", "{ns.t: 1}", "[ns.t] | unique | list",
        )
    ),
]  # fmt: skip


@pytest.fixture
def small_memory() -> Iterator[None]:
    """One GB more than now, so that a bomb that goes off is a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("template", BOMBS)
def test_a_template_without_end_is_stopped(template: str) -> None:
    with pytest.raises(OutpaceError, match=r"the chat template was stopped: it (takes|uses) ") as caught:
        ChatTemplate(template).render([{"role": "user", "content": "hi"}])
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("x" * (1 << 18), "the chat template has 262144 letters, accepted are"),
        ("{{ " + "(" * 10000 + "1" + ")" * 10000 + " }}", "RecursionError"),
        ("{{ 'a' | wordwrap(1, true, 'x') }}", "No filter named 'wordwrap'"),
        ("{{ lipsum(1000) }}", "'lipsum' is undefined"),
        ("{{ 'a'.encode('punycode') }}", "unsafe"),
        ("{{ 'a'.translate({97: 'b'}) }}", "unsafe"),
        ("{{ (1).to_bytes(1000000) }}", "unsafe"),
        (
            "{{ [1] | tojson(separators=('x' * 100, ':')) }}",
            "fails with ValueError: an indent of more than 32",
        ),
        ("{{ [[1]] | sum(start=[]) }}", "fails with ValueError: sum adds numbers"),
        *(
            (f"{{{{ '%900000000d' {test} }}}}", "fails with ValueError: only numbers are even")
            for test in ("is odd", "is even", "is divisibleby(1)")
        ),
        ("{{ ['%900000000d'] | reject('odd') | list }}", "fails with ValueError: only numbers are even"),
        ("{% include 'x' %}", "fails with TypeError"),
        ("{{ raise_exception('\x1b[31m\x9b2J\n' * 9) }}", r"refuses the messages: \\x1b\[31m\\x9b2J "),
    ],
)
def test_what_has_no_budget_is_refused(template: str, message: str) -> None:
    with pytest.raises(OutpaceError, match=message) as caught:
        ChatTemplate(template).render([{"role": "user", "content": "hi"}])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("template", [SMOLLM2, GEMMA, TOOLS], ids=["smollm2", "gemma", "tools"])
def test_long_conversations_are_within_the_budget(template: str) -> None:
    """Many short messages, few long ones, and many tools, each of which a template looks at several times."""
    turns = ("user", "assistant")
    many = [{"role": turns[i % 2], "content": "Yes."} for i in range(4000)]
    long = [{"role": turns[i % 2], "content": "word " * 200_000} for i in range(3)]
    for messages in (many, long):
        text = ChatTemplate(template).render(messages, tools=[TOOL] * 200)
        assert len(text) > len(messages)
    everyone = "{% for m in messages %}{% for n in messages %}{{ n.role[0] }}{% endfor %}{% endfor %}"
    assert len(ChatTemplate(everyone).render(many[:150])) == 150**2


@pytest.mark.parametrize(
    "look",
    [
        "messages | length - loop.index0",
        "messages | count",
        "messages | last == m",
        "messages is iterable and tools is sequence",
        "tools is defined and tools is not none",
        "tools != none and tools != 'x' and [] != 1",
        "loop.index is even and loop.index is divisibleby(3)",
    ],
)
def test_what_takes_one_step_is_no_more_in_a_long_conversation(look: str) -> None:
    """Templates ask such things anew for every message."""
    messages = [{"role": "user", "content": "Yes."}] * 3000
    template = ChatTemplate(
        "{% for m in messages[::-1] %}{% if " + look + " %}x{% else %}y{% endif %}{% endfor %}"
    )
    assert len(template.render(messages, tools=[TOOL] * 500)) == 3000


def test_budgets_of_threads_are_their_own() -> None:
    """One that is stopped takes nothing from another, which uses the same program."""
    template = ChatTemplate("{% for i in range(count) %}{% for j in range(100) %}x{% endfor %}{% endfor %}")

    def render(count: int) -> int:
        try:
            return len(template.render([{"role": "user", "content": "hi"}], count=count))
        except OutpaceError:
            return -1

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(render, [1000, 100000] * 8)) == [100000, -1] * 8


@pytest.mark.parametrize("name", ["self", "context", "template", "cls"])
def test_variables_of_any_name(name: str) -> None:
    """Jinja's own `self` stays what it is."""
    template = ChatTemplate("{{ x }}" + (" {{ " + name + " }}") * (name != "self"))
    values: dict[str, Any] = {"x": "-", name: "y"}
    shown = template.render([{"role": "user"}], **values).split()
    assert shown == (["-"] if name == "self" else ["-", "y"])


@pytest.mark.parametrize("messages", [["hi"], [{"content": "hi"}], [{"role": 3, "content": "hi"}]])
def test_messages_need_a_role(messages: Any) -> None:
    with pytest.raises(OutpaceError, match="role"):
        ChatTemplate(SMOLLM2).render(messages)


def test_the_names_that_a_template_reads() -> None:
    source = "{% set a = b %}{% for c in d %}{{ c.e['f'] | upper }}{% endfor %}{% if h %}x{% endif %}"
    assert ChatTemplate(source + "{{ a }}").names() == {"a", "b", "c", "d", "h"}
    assert ChatTemplate("{# tools #}{% set tools = 1 %}").names() == frozenset()
    for damaged, message in (
        ("a\n{% if %}", "malformed in line 2"),
        ("{{" + "(" * 5000, "nested too deeply"),
    ):
        with pytest.raises(OutpaceError, match=message):
            ChatTemplate(damaged).names()
