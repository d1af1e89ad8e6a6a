"""What clients send: bodies of requests, by OpenAI's names, and beyond those by vLLM's and llama-server's.

A field that is not here is refused by its name: nothing is ignored that could change an answer. Ranges are
checked by the library, which knows them.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from outpace.models.grammar import Grammar
from outpace.server.errors import Refused

Text = Annotated[str, Field(max_length=8 << 20)]
Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Whole = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]
Pair = Annotated[tuple[Token, float | Literal[False]], Field(strict=False)]  # JSON has it as a list
_OFF = (None, -1, 0)
MOST_FIELDS = 1 << 15  # of an object: each one that is wrong is an error
MOST_TEXTS = 2048
T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list of which the first wrong part alone is told of: a body has room for a million of them."""
MOST_STOPS, LONGEST_STOP = 128, 4096
"""Every letter of an answer is compared with all stop texts."""


class Body(BaseModel):
    """A JSON object without other fields than those that it has here, of these types."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, given: Any) -> Any:
        objects = (given, *given.values()) if isinstance(given, dict) else ()
        most = max((len(one) for one in objects if isinstance(one, dict)), default=0)
        if most > MOST_FIELDS:
            raise ValueError(f"an object has {most} fields, accepted are {MOST_FIELDS} at most")
        return given


def few_texts(given: Any) -> Any:
    """A field of one text or several, as it is. Raises ValueError for more than MOST_TEXTS."""
    if isinstance(given, list) and len(given) > MOST_TEXTS and isinstance(given[0], str | list):
        raise ValueError(f"{len(given)} texts are given, accepted are {MOST_TEXTS} at most")
    return given


class StreamOptions(Body):
    """How an answer is streamed. Obfuscation hides lengths from who listens on a line; here there is none."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class JsonSchema(Body):
    """A schema, and what it is called; strict or not, it is kept to."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Body):
    """A JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Body):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StructuredOutputs(Body):
    """What a text has to follow, one of these: as vLLM has it."""

    json_: dict[str, Any] | None = Field(None, alias="json")
    json_object: Literal[True] | None = None
    regex: Text | None = None
    lark: Text | None = None
    gbnf: Text | None = None

    def grammar(self) -> Grammar | None:
        """The one that is given. Raises Refused for several."""
        makers: dict[str, Any] = {
            "json_": Grammar.json_schema,
            "json_object": lambda _: Grammar.json(),
            "regex": Grammar.regex,
            "lark": Grammar.lark,
            "gbnf": Grammar.gbnf,
        }
        given = [name for name in makers if getattr(self, name) is not None]
        if len(given) > 1:
            names = " and ".join(name.strip("_") for name in given)
            raise Refused(f"structured_outputs has {names}, accepted is one", param="structured_outputs")
        made: Grammar | None = makers[given[0]](getattr(self, given[0])) if given else None
        return made


class Options(Body):
    """The fields that all texts have."""

    model: Text | None = None
    max_tokens: Whole | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    min_p: float | None = None
    seed: Whole | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: dict[str, float] | Many[Pair] | None = None
    stop: Text | Many[Text] | None = None
    stop_token_ids: Annotated[Many[Whole], Field(max_length=1024)] | None = None
    min_tokens: Whole | None = None
    ignore_eos: bool | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    timeout: Annotated[float, Field(gt=0)] | None = Field(None, description="Seconds for the whole answer.")
    draft_budget: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None,
        alias="speculative.n_max",
        description="The most drafted tokens of a step; 0 for plain decoding.",
    )
    # What these say concerns no token of an answer.
    cache_prompt: bool | None = None
    user: str | None = None
    metadata: dict[Text, Text] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("stop")
    @classmethod
    def _stops(cls, given: Any) -> Any:
        texts = [given] if isinstance(given, str) else given or ()
        longest = max(map(len, texts), default=0)
        if len(texts) > MOST_STOPS or longest > LONGEST_STOP:
            raise ValueError(
                f"stop has {len(texts)} texts of up to {longest} letters, accepted are {MOST_STOPS} texts of "
                f"{LONGEST_STOP} letters at most"
            )
        return given

    @field_validator("logit_bias")
    @classmethod
    def _tokens(cls, given: Any) -> Any:
        for token in given if isinstance(given, dict) else ():
            if not (token.isascii() and token.isdecimal() and len(token) < 11):
                raise ValueError(f"logit_bias has the key {token[:40]!r}, accepted are token ids")
        return given

    @property
    def usage_wanted(self) -> bool:
        """Whether the last chunk of a stream has the counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def text_options(self) -> dict[str, Any]:
        """As keyword arguments of `Model.request`, those alone that are given."""
        if self.repetition_penalty is not None and self.repeat_penalty is not None:
            raise Refused(
                "repetition_penalty and repeat_penalty are given, accepted is one", param="repeat_penalty"
            )
        repetition = self.repeat_penalty if self.repetition_penalty is None else self.repetition_penalty
        options = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k in _OFF else self.top_k,
            "min_p": self.min_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": repetition,
            "logit_bias": self._biases(),
            "stop": self.stop,
            "stop_token_ids": self.stop_token_ids,
            "min_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "grammar": self.grammar(),
            "budget": self.draft_budget,
        }
        return {name: value for name, value in options.items() if value is not None}

    def grammar(self) -> Grammar | None:
        """What the text has to follow. Raises Refused for two grammars, OutpaceError for one that is none."""
        outputs = None if self.structured_outputs is None else self.structured_outputs.grammar()
        form: Grammar | None = None
        if isinstance(self.response_format, ObjectFormat):
            form = Grammar.json()
        elif isinstance(self.response_format, SchemaFormat):
            form = Grammar.json_schema(self.response_format.json_schema.schema_)
        if form is not None and outputs is not None:
            message = "response_format and structured_outputs are given, accepted is one"
            raise Refused(message, param="structured_outputs")
        return form or outputs

    @property
    def grammar_field(self) -> str:
        """The field that `grammar` is made of."""
        return "response_format" if self.structured_outputs is None else "structured_outputs"

    def seeds(self) -> list[int]:
        """A seed for each of the n answers: the given one, and those that follow it."""
        first = secrets.randbits(64) if self.seed in (None, -1) else self.seed or 0
        return [(first + number) % 2**64 for number in range(self.n or 1)]

    def _biases(self) -> dict[int, float] | None:
        if self.logit_bias is None:
            return None
        pairs = self.logit_bias.items() if isinstance(self.logit_bias, dict) else self.logit_bias
        return {int(token): float("-inf") if bias is False else bias for token, bias in pairs}


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str


class Message(BaseModel):
    """A message. What its other fields may be is the matter of the model's chat template."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: str
    content: Text | Many[Part] | None = None


class Tool(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str = "function"
    function: dict[str, Any] | None = None


class ChatBody(Options):
    """POST /v1/chat/completions. https://platform.openai.com/docs/api-reference/chat/create"""

    messages: Annotated[Many[Message], Field(min_length=1)]
    max_completion_tokens: Whole | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    modalities: Many[Literal["text"]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Many[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    trace: bool | None = Field(None, description="Tell what was drafted and kept in every step.")

    def text_options(self) -> dict[str, Any]:
        """As those of all texts, with the template's and the log-probabilities."""
        options = super().text_options()
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise Refused("max_tokens and max_completion_tokens differ, accepted is one", param="max_tokens")
        options["max_tokens"] = next(iter(both), None)
        if self.trace and self.n not in (None, 1):
            raise Refused(f"trace is of one answer and n is {self.n}, accepted is n 1 with it", param="trace")
        if self.top_logprobs and not self.logprobs:
            raise Refused(
                "top_logprobs needs logprobs, accepted is logprobs: true with it", param="top_logprobs"
            )
        if self.logprobs:
            options["logprobs"] = self.top_logprobs or 0
        if self.chat_template_kwargs is not None:
            options["chat_template_kwargs"] = self.chat_template_kwargs
        return options


class CompletionBody(Options):
    """POST /v1/completions. https://platform.openai.com/docs/api-reference/completions/create"""

    prompt: Text | Many[Text] | Many[Token] | Many[Many[Token]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: Literal[""] | None = None
    best_of: int | None = None

    _few = field_validator("prompt", mode="before")(few_texts)

    def text_options(self) -> dict[str, Any]:
        """As those of all texts; a prompt is continued as it is."""
        options = super().text_options()
        if self.best_of not in (None, self.n or 1):
            raise Refused(f"best_of is {self.best_of}, accepted is n ({self.n or 1})", param="best_of")
        if self.echo and self.logprobs is not None:
            raise Refused("echo with logprobs is not supported, accepted is one of them", param="echo")
        options["max_tokens"] = 16 if self.max_tokens is None else self.max_tokens
        if self.logprobs is not None:
            options["logprobs"] = self.logprobs
        return options

    def prompts(self) -> list[str | list[int]]:
        """One or several."""
        return texts_of(self.prompt, "prompt")


def texts_of(given: Any, field: str) -> list[str | list[int]]:
    """The texts of a field that takes one or several, each as a text or as token ids."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    if not given:
        raise Refused(f"{field} is empty, accepted are texts and lists of token ids", param=field)
    return list(given)


class TokenizeBody(Body):
    """POST /tokenize, as llama-server has it."""

    content: Text
    model: Text | None = None
    add_special: bool = False
    parse_special: bool = True


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: Many[Token]
    model: Text | None = None
