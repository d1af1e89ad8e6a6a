"""The options of calls, each spelled once: types for checkers, defaults and signatures for everybody else."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter, Rule, TreePolicy
from outpace.core.sampling import Sampling, given_sampling
from outpace.models.choosing import Choosing
from outpace.models.grammar import Grammar

Text = str | Sequence[Mapping[str, Any]] | Prompt
"""A prompt: a user message or a text, messages with "role" and "content", or token ids as they are."""
Texts = list[str] | list[Sequence[Mapping[str, Any]]] | list[Prompt]


class Drafting(TypedDict, total=False):
    """What drafts, and what is kept of it."""

    draft: Annotated[str | Drafter | None, "ngram"]
    tree: Annotated[str | TreePolicy | None, None]
    rule: Annotated[str | Rule, "match"]


class Prompting(TypedDict, total=False):
    """What a prompt is made of besides its text."""

    system: Annotated[str | None, None]
    raw: Annotated[bool, False]
    tools: Annotated[Sequence[Mapping[str, Any]] | None, None]
    chat_template_kwargs: Annotated[Mapping[str, Any] | None, None]
    parse_special: Annotated[bool, False]


class Stopping(TypedDict, total=False):
    """Where a text ends."""

    stop: Annotated[str | Sequence[str] | None, None]


class Showing(TypedDict, total=False):
    """What a text shows of its tokens."""

    show_tokens: Annotated[Sequence[int] | None, None]


class TextOptions(Drafting, Prompting, Stopping, Showing, Choosing, total=False):
    """The options of `Model.generate` and `Model.stream`, which explains them."""

    max_tokens: Annotated[int | None, 128]
    sampling: Annotated[Sampling | None, None]
    temperature: Annotated[float, 0.0]
    top_k: Annotated[int, 0]
    top_p: Annotated[float, 1.0]
    min_p: Annotated[float, 0.0]
    seed: Annotated[int | None, 0]
    logprobs: Annotated[int | None, None]
    grammar: Annotated[Grammar | None, None]


class LoadOptions(TypedDict, total=False):
    """The options of `load`, which explains them."""

    threads: Annotated[int | None, None]
    quantize: Annotated[Literal["q8", "q4"] | None, None]
    context_length: Annotated[int | None, None]
    kv: Annotated[Literal["f16", "f32"], "f16"]
    cache_tokens: Annotated[int | None, None]
    progress: Annotated[Callable[[int, int, str], None] | None, None]


def sampling_of(given: Mapping[str, Any]) -> Sampling:
    """The `sampling` of a call, or that of its single options; a seed of None is drawn."""
    sampling = given_sampling(given)
    if sampling is None:
        single = {name: given[name] for name in Sampling.__slots__ if name in given}
        if "seed" in single and single["seed"] is None:
            single["seed"] = secrets.randbits(64)
        sampling = Sampling(**single)
    return sampling
