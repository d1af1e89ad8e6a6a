"""How one request uses tools: what goes into the prompt, how its text is read, and what forces a call.

use = tool_use(model.chat.source, model.tokenizer, tools=..., tool_choice=..., parallel_tool_calls=...)
messages = use.messages(template_messages(request["messages"], model.chat.source))
ids = model.prompt_ids(messages, chat_template_kwargs=use.variables)
prompt = model.tokenizer.decode(ids, skip_special_tokens=False)
reader, grammar = use.reader(prompt), use.grammar(prompt)   # grammar: Lark, or None where nothing is forced
text = TextStream(model.tokenizer, shown=use.shown)
for ...: reader.push(text.push(tokens)), until reader.done
reader.push(text.finish()) + reader.finish()
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from outpace.core.errors import OutpaceError
from outpace.server.tools.format import Format
from outpace.server.tools.formats import FORMATS, format_of, takes_tools_in_messages, tool_variable
from outpace.server.tools.offer import Offer, read_offer
from outpace.server.tools.reader import THINK, NoCall, Reader, Reading


class Vocabulary(Protocol):
    """What is asked of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token(self, token_id: int) -> str | None: ...


class ToolUse(Protocol):
    """Of one request.

    - `variables`: of the chat template, for `chat_template_kwargs`.
    - `shown`: special tokens that the text has to show.
    - `forces`: the text has to be a call.
    - `most_calls`: behind so many the text is over; None is any number.
    """

    @property
    def variables(self) -> Mapping[str, Any]: ...

    @property
    def shown(self) -> frozenset[int]: ...

    @property
    def forces(self) -> bool: ...

    @property
    def most_calls(self) -> int | None: ...

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The messages with all that the template reads there."""

    def reader(self, prompt: str = "") -> Reader:
        """What reads one text. `prompt`: the end of the prompt's text, which may have opened a <think>."""

    def grammar(self, prompt: str = "") -> str | None:
        """A Lark grammar that forces a call, or None where the model is free."""


class ContentReader(Reader):
    """Of a text in which no call is looked for."""

    def _calls(self, opener: str) -> Reading[None]:
        raise NoCall
        yield


class NoTools:
    """No function may be called: the template is told of none."""

    variables: Mapping[str, Any] = {}
    shown: frozenset[int] = frozenset()
    forces = False
    most_calls = None

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """See ToolUse."""
        return list(messages)

    def reader(self, prompt: str = "") -> Reader:
        """See ToolUse."""
        return ContentReader({}, new_id=str)

    def grammar(self, prompt: str = "") -> str | None:
        """See ToolUse."""
        return None


class OfferedTools:
    """Functions are offered, by a template whose format is known."""

    def __init__(self, offer: Offer, form: Format, source: str, special: Mapping[str, int]) -> None:
        """`special`: the ids of the vocabulary's special tokens, by their texts."""
        self.format = form
        self._offer = offer
        self._source = source
        self.forces = offer.forced
        self.most_calls = offer.most_calls
        self._special = {text: special[text] for text in (*form.markers, *_THINKING) if text in special}
        self.shown = frozenset(self._special[text] for text in form.markers if text in self._special)
        variable = tool_variable(source)
        self.variables: Mapping[str, Any] = {} if variable is None else {variable: list(offer.tools)}

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """See ToolUse."""
        if not takes_tools_in_messages(self._source):
            return list(messages)
        told = json.dumps([tool["function"] for tool in self._offer.tools], ensure_ascii=False)
        first, rest = {"role": "system", "content": ""}, list(messages)
        if rest[0]["role"] == "system":
            first = {**rest.pop(0)}
        return [{**first, "tools": told}, *rest]

    def reader(self, prompt: str = "") -> Reader:
        """See ToolUse."""
        return self.format.reader(
            self._offer.schemas,
            new_id=self.format.new_id,
            most_calls=self.most_calls,
            thinks=_opens_thoughts(prompt),
        )

    def grammar(self, prompt: str = "") -> str | None:
        """See ToolUse."""
        if not self.forces:
            return None
        return self.format.grammar(
            self._offer.schemas,
            special=self._special,
            parallel=self.most_calls is None,
            may_think=THINK in self._source,
            thinks=_opens_thoughts(prompt),
        )


_THINKING = (THINK, "</think>")


def tool_use(
    source: str | None,
    vocabulary: Vocabulary,
    *,
    tools: Any = None,
    tool_choice: Any = None,
    parallel_tool_calls: bool | None = None,
) -> ToolUse:
    """What a request asks for. `source`: the model's chat template.

    Raises OutpaceError for malformed values, and for tools where the template takes none or writes calls in a
    way that is not read.
    """
    offer = read_offer(tools, tool_choice, parallel_tool_calls)
    if offer is None:
        return NoTools()
    special = {text: i for i in vocabulary.special_ids if (text := vocabulary.token(i)) is not None}
    form = None if source is None else format_of(source, special)
    if form is None or source is None:
        names = "calls of the kinds " + ", ".join(kind.name for kind in FORMATS)
        raise OutpaceError(
            f"tools is given, and the model's chat template takes none that can be read; accepted are {names}"
        )
    return OfferedTools(offer, form, source, special)


def _opens_thoughts(prompt: str) -> bool:
    return prompt.rstrip().endswith(THINK)
