"""The shortest chat templates that take tools and write calls as those of the families do.

`TEMPLATES` has each by the name of its format. What it writes after "A:" is what such a model writes.
"""

from __future__ import annotations

HEAD = """{%- if tools %}Tools: {{ tools | tojson }}
{% endif %}{%- for message in messages %}
{%- if message.role == "tool" %}R:{{ message.content }}
{% elif message.role != "assistant" %}Q:{{ message.content }}
{% else %}A:{{ message.content }}"""
TAIL = """
{% endif %}{%- endfor %}{%- if add_generation_prompt %}A:{% endif %}"""
EACH = "{%- for call in message.tool_calls or [] %}{%- set call = call.function %}"


def template(calls: str, *, head: str = HEAD, tail: str = TAIL) -> str:
    return head + calls + tail


HERMES = template(
    EACH + '{{ "\\n" if not loop.first }}<tool_call>\n{"name": "{{ call.name }}", "arguments": '
    "{{ call.arguments | tojson }}}\n</tool_call>{%- endfor %}"
)
QWEN3 = HERMES.replace("A:{%", "A:{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{%")
SMOLLM3 = HERMES.replace("tools %}", "xml_tools %}").replace("{{ tools |", "{{ xml_tools |")
QWEN_CODER = template(
    EACH
    + r"""{{ "\n" if not loop.first }}{{ "<tool_call>\n<function=" ~ call.name ~ ">\n" }}
{%- for key, value in call.arguments | items %}
{{- "<parameter=" ~ key ~ ">\n" ~ (value if value is string else value | tojson) ~ "\n</parameter>\n" }}
{%- endfor %}{{ "</function>\n</tool_call>" }}{%- endfor %}"""
)
LLAMA = template(
    EACH + '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}'
    "{{ '; ' if not loop.last }}{%- endfor %}",
    head="<|start_header_id|>" + HEAD + "{%- if builtin_tools %}<|python_tag|>{% endif %}",
)
MISTRAL = template(
    """{%- if message.tool_calls %}[TOOL_CALLS] [{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("ids have 9 letters") }}{% endif %}
{%- set text = call.function | tojson %}{{ text[:-1] }}, "id": "{{ call.id }}"}{{ ", " if not loop.last }}
{%- endfor %}]{% endif %}"""
)
MISTRAL_ARGS = template(EACH + "[TOOL_CALLS]{{ call.name }}[ARGS]{{ call.arguments | tojson }}{%- endfor %}")
LIST = EACH + '{{ ", " if not loop.first }}{{ call | tojson }}{%- endfor %}'
GRANITE = template("{%- if message.tool_calls %}<|tool_call|>[" + LIST + "]{% endif %}")
PHI = template("{%- if message.tool_calls %}<|tool_call|>[" + LIST + "]<|/tool_call|>{% endif %}")
PHI_OWN = """{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message
and message['tools'] is not none %}{{ '<|system|>' + message['content'] + '<|tool|>' + message['tools']
+ '<|/tool|><|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
{%- endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
FUNCTOOLS = template("{%- if message.tool_calls %}functools[" + LIST + "]{% endif %}")
D_ALL, D_END_ALL = "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"
D_ONE, D_END_ONE = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
D_SEPARATOR = "<\uff5ctool\u2581sep\uff5c>"
DEEPSEEK_R1 = template(
    f"{{%- if message.tool_calls %}}{D_ALL}{EACH}"
    f"{{{{ '\\n' if not loop.first }}}}{D_ONE}function{D_SEPARATOR}"
    "{{ call.name }}\n```json\n{{ call.arguments | tojson }}\n```"
    f"{D_END_ONE}{{%- endfor %}}{D_END_ALL}{{% endif %}}"
)
DEEPSEEK_V31 = template(
    f"{{%- if message.tool_calls %}}{D_ALL}{EACH}{D_ONE}{{{{ call.name }}}}{D_SEPARATOR}"
    "{{ call.arguments + ''"
    f" }}}}{D_END_ONE}{{%- endfor %}}{D_END_ALL}{{% endif %}}"
)
UNKNOWN = template(
    EACH + '{{ "\\n" }}{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}{%- endfor %}'
)
NO_TOOLS = """{% for message in messages %}<{{ message.role }}>{{ message.content }}
{% endfor %}{# knows no tools, and says so #}"""

TEMPLATES = {
    "hermes": HERMES,
    "qwen-coder": QWEN_CODER,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mistral-args": MISTRAL_ARGS,
    "granite": GRANITE,
    "phi": PHI,
    "functools": FUNCTOOLS,
    "deepseek-r1": DEEPSEEK_R1,
    "deepseek-v3.1": DEEPSEEK_V31,
    "json": UNKNOWN,
}
