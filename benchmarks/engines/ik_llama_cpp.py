"""ik_llama.cpp, through the C layer of ik-llama-cpp-python: repacked weights, flash attention.

The package's own class would turn flash attention off on processors that have AVX-512 VNNI but not AVX-VNNI.
Its drafting is in programs that the package does not build, so the loop with prompt lookup is ours.
"""

from __future__ import annotations

import ctypes
from importlib.metadata import version

from ik_llama_cpp import _ctypes_api as api

from benchmarks.engines.decoder import Decoder, Decoding, c_function
from benchmarks.engines.serve import Options, serve


def open_engine(options: Options) -> Decoding:
    p, i = ctypes.c_void_p, ctypes.c_int32
    remove = c_function(api._lib, "llama_kv_cache_seq_rm", ctypes.c_bool, p, i, i, i)
    decoder = Decoder(
        api,
        options.model,
        context=options.context,
        threads=options.threads,
        cut=lambda context, length: remove(context, 0, length, -1),
        model_options={
            "repack_tensors": True,
            "merge_qkv": True,
            "use_mmap": False,
            "flash_attn": True,
        },
        context_options={"flash_attn": True},
    )
    return Decoding(decoder, version("ik-llama-cpp-python"))


if __name__ == "__main__":
    serve(open_engine)
