"""Outpace as one of the engines that are compared: the same questions as to a peer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import outpace
from outpace.core.call import Call, begin, read
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree

NAME = "outpace"


class Ours:
    """A model of ours; `methods` are "plain" and the drafts given."""

    name = NAME

    def __init__(self, model: outpace.Model, drafts: Sequence[str]) -> None:
        self.version = outpace.__version__
        self.methods = ["plain", *drafts]
        self._model = model

    def decode(self, text: str, tokens: Sequence[int], max_tokens: int, method: str) -> dict[str, Any]:
        # A drafter of its own for each answer: none has seen it before.
        drafter = self._model.new_drafter("none" if method == "plain" else method)
        generation = self._model.generate(text, draft=drafter, max_tokens=max_tokens)
        stats = generation.stats
        decode_s = stats.wall_s - stats.time_to_first_token_s
        return {"token_ids": generation.token_ids, "decode_s": decode_s, "prompt_s": stats.prompt_s}

    def prompt(self, tokens: Sequence[int]) -> float:
        target = self._model.target
        start = time.perf_counter()
        row = target.open()
        (left,) = read(target, [row], [list(tokens)])
        target.score([Call(row, left, TokenTree.root(left[-1]))]).choose([Sampling()], [len(tokens) - 1])
        seconds = time.perf_counter() - start
        target.free([row])
        return seconds

    def call(self, cached: Sequence[int], block: Sequence[int], calls: int) -> list[float]:
        target = self._model.target
        row = begin(target, cached)
        tree = TokenTree.chain(block[0], block[1:])
        seconds = []
        try:
            for _ in range(calls):
                start = time.perf_counter()
                target.score([Call.on(row, tree)]).choose([Sampling()], [len(cached)])
                seconds.append(time.perf_counter() - start)
        finally:
            target.free([row])
        return seconds
