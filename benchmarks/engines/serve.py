"""The engine's end of a pipe: JSON requests on standard input, JSON answers on standard output, one a line.

An adapter runs in an environment of its own and imports nothing of ours. Token ids go in and come out, so
that all engines get exactly the same prompts. The first line out says `version`, the `methods` of decoding
and what else the engine `can` do; then `{"do": NAME, ...}` calls the method NAME of the adapter's engine:

    decode(tokens, max_tokens, method)  -> token_ids, prompt_s, decode_s (the time after the first token)
    prompt(tokens)                      -> seconds from the ids to the choice of the next token
    call(cached, block, calls)          -> seconds, a list: each time one call that scores the tokens of
                                           `block` behind `cached` ones and chooses a token after each
    follow(tokens)                      -> choices, log_probs: for every token but the last, the best token
                                           after it, and the log-probability of the one that does follow
    requantize(target)                  -> writes a Q4_0 copy of the model

Decoding is greedy and makes exactly `max_tokens` tokens; an end-of-text token does not stop it. Nothing that
an engine has seen in one request helps it in another.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

OPTIONAL = ("call", "follow", "requantize")


@dataclass(frozen=True)
class Options:
    """What an engine is opened with. `context` is in tokens; `draft_model` a file or None."""

    model: str
    threads: int
    context: int
    draft_model: str | None = None


class Engine(Protocol):
    """An engine with its model. `methods` has "plain" first, then its ways to draft."""

    version: str

    @property
    def methods(self) -> Mapping[str, Any]: ...

    def decode(self, tokens: Sequence[int], max_tokens: int, method: str) -> dict[str, Any]: ...

    def prompt(self, tokens: Sequence[int]) -> dict[str, Any]: ...


def serve(open_engine: Callable[[Options], Engine]) -> None:
    """Open the engine that the command line asks for, and answer requests until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--draft-model")
    options = Options(**vars(parser.parse_args()))
    answer(lambda: open_engine(options))


def answer(open_engine: Callable[[], Any]) -> None:
    """The same with an engine of any requests."""
    # A library may print to standard output; answers must be all that is there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    engine = open_engine()
    can = [name for name in OPTIONAL if hasattr(engine, name)]
    say({"version": engine.version, "methods": list(engine.methods), "can": can})
    for line in sys.stdin:
        request = json.loads(line)
        say(getattr(engine, request.pop("do"))(**request) or {})
