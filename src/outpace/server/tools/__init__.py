"""Tools: what a model writes becomes calls, what a request says of them becomes a prompt and a grammar."""

from __future__ import annotations

from outpace.server.tools.deltas import Arguments, CallBegins, Content, Delta
from outpace.server.tools.formats import format_of
from outpace.server.tools.last_call import LastCall
from outpace.server.tools.messages import template_messages
from outpace.server.tools.reader import Reader
from outpace.server.tools.use import ToolUse, tool_use

__all__ = [
    "Arguments",
    "CallBegins",
    "Content",
    "Delta",
    "LastCall",
    "Reader",
    "ToolUse",
    "format_of",
    "template_messages",
    "tool_use",
]
