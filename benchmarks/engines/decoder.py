"""llama.cpp and ik_llama.cpp through the C functions that both have, called with ctypes.

The loops are the shortest that the libraries allow: evaluate, then an argmax in numpy, which is quicker than
their own sampler chains. Runs in the environment of the engine.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

BATCH = 512  # tokens that one call takes at most

Draft = Callable[[Sequence[int]], list[int]]  # a guess at what follows a text


def nothing(text: Sequence[int]) -> list[int]:
    """The draft of plain decoding."""
    return []


class Lookup:
    """Prompt lookup: what followed the latest earlier place where the text said the same, `length` tokens."""

    LONGEST, SHORTEST = 4, 2

    def __init__(self, length: int) -> None:
        self.length = length
        self._seen = 0
        self._places: dict[tuple[int, ...], int] = {}

    def __call__(self, text: Sequence[int]) -> list[int]:
        if len(text) < self._seen:
            self._seen, self._places = 0, {}
        for end in range(self._seen, len(text)):  # all but what ends the text now
            for size in range(self.SHORTEST, self.LONGEST + 1):
                if size <= end:
                    self._places[tuple(text[end - size : end])] = end
        self._seen = len(text)
        for size in range(self.LONGEST, self.SHORTEST - 1, -1):
            place = self._places.get(tuple(text[-size:]))
            if place is not None:
                return list(text[place : place + self.length])
        return []


class Decoder:
    """One sequence in one context.

    `api` has the C functions under their names; `cut(context, n)` forgets all that is cached from position n
    on; the options are fields of the library's own parameter structures.
    """

    def __init__(
        self,
        api: Any,
        model: str,
        *,
        context: int,
        threads: int,
        cut: Callable[[int, int], object],
        model_options: Mapping[str, Any] = {},
        context_options: Mapping[str, Any] = {},
    ) -> None:
        self._api = api
        api.llama_backend_init()
        of_model = api.llama_model_default_params()
        for name, value in model_options.items():
            setattr(of_model, name, value)
        self._model = api.llama_model_load_from_file(model.encode(), of_model)
        if not self._model:
            raise SystemExit(f"the model {model} could not be loaded")
        of_context = api.llama_context_default_params()
        of_context.n_ctx, of_context.n_batch, of_context.n_ubatch = context, BATCH, BATCH
        of_context.n_threads = of_context.n_threads_batch = threads
        for name, value in context_options.items():
            setattr(of_context, name, value)
        self._context = api.llama_init_from_model(self._model, of_context)
        if not self._context:
            raise SystemExit("no context could be made")
        self._cut = cut
        self._vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._batch = api.llama_batch_init(BATCH, 0, 1)
        self._length = 0

    def cut(self, length: int) -> None:
        """Forget all that is cached but the first `length` tokens."""
        self._cut(self._context, length)
        self._length = length

    def feed(self, tokens: Sequence[int], scores: int) -> np.ndarray:
        """Cache these tokens; the scores [scores, V] after each of the last so many, all in one call."""
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            scored = scores if start + BATCH >= len(tokens) else 0
            batch = self._batch
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i], batch.pos[i] = token, self._length + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = i >= len(part) - scored
            if (status := self._api.llama_decode(self._context, batch)) != 0:
                raise SystemExit(f"a call ended with status {status}")
            self._length += len(part)
        rows = (
            np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, i), shape=(self._vocab_size,))
            for i in range(len(part) - scores, len(part))
        )
        return np.stack(list(rows)) if scores > 1 else next(rows)[None]

    def generate(self, tokens: Sequence[int], max_tokens: int, draft: Draft) -> dict[str, Any]:
        start = time.perf_counter()
        self.cut(0)
        text = [*tokens, int(self.feed(tokens, 1).argmax())]
        first = time.perf_counter()
        end = len(tokens) + max_tokens
        while len(text) < end:
            guess = draft(text)[: end - len(text) - 1]
            kept = self._length
            chosen = self.feed([text[-1], *guess], 1 + len(guess)).argmax(axis=1).tolist()
            right = 0
            while right < len(guess) and guess[right] == chosen[right]:
                right += 1
            text += chosen[: right + 1]
            if right < len(guess):
                self.cut(kept + 1 + right)
        done = time.perf_counter()
        return {"token_ids": text[len(tokens) :], "prompt_s": first - start, "decode_s": done - first}

    def prompt(self, tokens: Sequence[int]) -> dict[str, Any]:
        start = time.perf_counter()
        self.cut(0)
        self.feed(tokens, 1).argmax()
        return {"seconds": time.perf_counter() - start}

    def call(self, cached: Sequence[int], block: Sequence[int], calls: int) -> dict[str, Any]:
        self.cut(0)
        self.feed(cached, 1)
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            self.feed(block, len(block)).argmax(axis=1)
            seconds.append(time.perf_counter() - start)
            self.cut(len(cached))
        return {"seconds": seconds}

    def follow(self, tokens: Sequence[int]) -> dict[str, Any]:
        choices: list[int] = []
        log_probs: list[float] = []
        self.cut(0)
        for start in range(0, len(tokens) - 1, BATCH):
            part = tokens[start : start + BATCH]
            logits = self.feed(part, len(part)).astype(np.float64)  # [part, V]
            logits -= logits.max(axis=1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            following = tokens[start + 1 : start + 1 + len(part)]
            choices += logits.argmax(axis=1)[: len(following)].tolist()
            log_probs += logits[np.arange(len(following)), following].tolist()
        return {"choices": choices, "log_probs": log_probs}


class Decoding:
    """What both libraries offer on a Decoder: plain decoding and prompt lookup of several lengths."""

    methods: Mapping[str, Callable[[], Draft]] = {
        "plain": lambda: nothing,
        "lookup 2": lambda: Lookup(2),
        "lookup 4": lambda: Lookup(4),
        "lookup 8": lambda: Lookup(8),
    }

    def __init__(self, decoder: Decoder, version: str) -> None:
        self.decoder = decoder
        self.version = version
        self.prompt, self.call, self.follow = decoder.prompt, decoder.call, decoder.follow

    def decode(self, tokens: Sequence[int], max_tokens: int, method: str) -> dict[str, Any]:
        return self.decoder.generate(tokens, max_tokens, self.methods[method]())


def c_function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """A function of the library that its package does not bind."""
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function
