"""Which family a chat template is of, by the markers that it writes."""

from __future__ import annotations

from collections.abc import Collection

from outpace.files.chat import ChatTemplate
from outpace.server.tools.bare import PYTHON, Bare, Llama
from outpace.server.tools.deepseek import FENCE, ONE, DeepSeekR1, DeepSeekV31
from outpace.server.tools.format import Format
from outpace.server.tools.hermes import OPEN, Hermes
from outpace.server.tools.listed import CLOSE, Functools, Granite, Phi
from outpace.server.tools.listed import OPEN as OPEN_LIST
from outpace.server.tools.mistral import ARGS, CALLS, Mistral, MistralNamed
from outpace.server.tools.qwen_coder import FUNCTION, QwenCoder

FORMATS: tuple[type[Format], ...] = (
    Hermes,
    QwenCoder,
    Llama,
    Mistral,
    MistralNamed,
    Granite,
    Phi,
    Functools,
    DeepSeekR1,
    DeepSeekV31,
    Bare,
)
PHI_TOOLS = "<|tool|>"
TOOL_VARIABLES = ("tools", "xml_tools")  # SmolLM3 has the second
# Of GLM, Gemma 4, FunctionGemma, MiniMax, Kimi, LFM2 and Command: calls that nothing here reads.
_NOT_READ = (
    "<arg_key>",
    "<|tool_call>",
    "<start_function_call>",
    "<minimax:tool_call>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_start|>",
    "<|START_ACTION|>",
)


def format_of(source: str, special: Collection[str] = ()) -> Format | None:
    """How the model of a chat template writes calls.

    `special`: the texts of the vocabulary's special tokens, for templates that show no call. None where the
    template takes no tools, and where nothing here reads its calls. Raises OutpaceError for a template that
    is malformed.
    """
    if tool_variable(source) is None and not takes_tools_in_messages(source):
        return None
    if any(mark in source for mark in _NOT_READ):
        return None
    return (_family(source) or _family(" ".join(sorted(special))) or Bare)()


def tool_variable(source: str) -> str | None:
    """The variable in which a template takes tools. Raises OutpaceError for a template that is malformed."""
    names = ChatTemplate(source).names()
    return next((name for name in TOOL_VARIABLES if name in names), None)


def takes_tools_in_messages(source: str) -> bool:
    """Whether a template reads the tools from a field of the system message, as Phi-4-mini's own."""
    return PHI_TOOLS in source and "message['tools']" in source and tool_variable(source) is None


def _family(text: str) -> type[Format] | None:
    if FUNCTION in text and OPEN in text:
        return QwenCoder
    if ONE in text:
        return DeepSeekR1 if FENCE in text else DeepSeekV31
    if CALLS in text:
        return MistralNamed if ARGS in text else Mistral
    if OPEN_LIST in text or PHI_TOOLS in text:
        return Phi if CLOSE in text or PHI_TOOLS in text else Granite
    if "functools[" in text:
        return Functools
    if OPEN in text:
        return Hermes
    if PYTHON in text or ('"parameters": ' in text and "<|start_header_id|>" in text):
        return Llama
    return None
