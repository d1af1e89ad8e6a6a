"""llama.cpp, through the C layer of llama-cpp-python."""

from __future__ import annotations

import os

import llama_cpp

from benchmarks.engines.decoder import Decoder, Decoding
from benchmarks.engines.serve import Options, serve


class LlamaCpp(Decoding):
    """Writes models in Q4_0 too, the type whose kernels llama.cpp has tuned most."""

    def __init__(self, options: Options) -> None:
        self._source = options.model
        decoder = Decoder(
            llama_cpp,
            options.model,
            context=options.context,
            threads=options.threads,
            cut=lambda context, length: llama_cpp.llama_memory_seq_rm(
                llama_cpp.llama_get_memory(context), 0, length, -1
            ),
        )
        super().__init__(decoder, llama_cpp.__version__)

    def requantize(self, target: str) -> None:
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
        options.allow_requantize = True
        partial = f"{target}.part"
        if llama_cpp.llama_model_quantize(self._source.encode(), partial.encode(), options) != 0:
            raise SystemExit(f"llama.cpp could not requantize {self._source}")
        os.replace(partial, target)


if __name__ == "__main__":
    serve(LlamaCpp)
