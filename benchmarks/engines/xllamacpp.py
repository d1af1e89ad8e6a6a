"""llama.cpp's server with its own drafting, in one process with us through xllamacpp.

A server has one way to draft, so that there is one for each, opened when it is first asked. The n-gram tables
of some live as long as their server does: these get a new one for each answer, which none has seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xllamacpp
from xllamacpp import CommonParams, Server
from xllamacpp import common_speculative_type as kinds

from benchmarks.engines.serve import Options, serve


@dataclass(frozen=True)
class Method:
    """A way to draft: its kind, what it sets, and whether its server remembers earlier answers."""

    kind: Any
    remembers: bool = False
    configure: Callable[[Any], None] = lambda speculative: None


def short(family: str) -> Callable[[Any], None]:
    """Short drafts for a family of n-grams; the default, 48 tokens after 12, suits large processors."""

    def configure(speculative: Any) -> None:
        grams = getattr(speculative, family)
        grams.size_n, grams.size_m = 3, 4

    return configure


METHODS = {
    "plain": Method(kinds.COMMON_SPECULATIVE_TYPE_NONE),
    "ngram-simple": Method(kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE),
    "ngram-simple short": Method(kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE, configure=short("ngram_simple")),
    "ngram-map-k4v": Method(kinds.COMMON_SPECULATIVE_TYPE_NGRAM_MAP_K4V, remembers=True),
    "ngram-map-k4v short": Method(
        kinds.COMMON_SPECULATIVE_TYPE_NGRAM_MAP_K4V, remembers=True, configure=short("ngram_map_k4v")
    ),
    "ngram-mod": Method(kinds.COMMON_SPECULATIVE_TYPE_NGRAM_MOD, remembers=True),
}


class LlamaServer:
    def __init__(self, options: Options) -> None:
        self.version = xllamacpp.__version__
        self._options = options
        self._servers: dict[str, Server] = {}
        self.methods: Mapping[str, Method] = METHODS
        if options.draft_model is not None:
            self.methods = {**METHODS, "draft model": Method(kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE)}

    def decode(self, tokens: Sequence[int], max_tokens: int, method: str) -> dict[str, Any]:
        server = self._server(method)
        answer = server.handle_completions(
            {
                "prompt": list(tokens),
                "n_predict": max_tokens,
                "temperature": 0.0,
                "samplers": ["temperature"],
                "ignore_eos": True,
                "cache_prompt": False,
                "return_tokens": True,
                "verbose": True,  # the tokens are in what this adds
            }
        ).get("__verbose")
        if answer is None:
            raise SystemExit("llama.cpp's server gave no answer")
        timings = answer["timings"]
        return {
            "token_ids": answer["tokens"],
            "prompt_s": timings["prompt_ms"] / 1e3,
            "decode_s": timings["predicted_ms"] / 1e3,
        }

    def prompt(self, tokens: Sequence[int]) -> dict[str, Any]:
        return {"seconds": self.decode(tokens, 1, "plain")["prompt_s"]}

    def _server(self, name: str) -> Server:
        method = self.methods[name]
        if method.remembers:
            self._servers.pop(name, None)
        if name not in self._servers:
            self._servers[name] = Server(self._params(name, method))
        return self._servers[name]

    def _params(self, name: str, method: Method) -> CommonParams:
        params = CommonParams()
        params.model.path = self._options.model
        params.n_ctx, params.n_parallel = self._options.context, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._options.threads
        params.verbosity = 0
        params.port = 0
        params.cache_ram_mib = 0
        params.speculative.types = [method.kind]
        method.configure(params.speculative)
        if name == "draft model":
            params.speculative.draft.mparams.path = self._options.draft_model
        return params


if __name__ == "__main__":
    serve(LlamaServer)
