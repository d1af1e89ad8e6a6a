"""llama.cpp's server over HTTP, from the same build as `xllamacpp`, for `benchmarks.serving`.

It runs in that engine's environment, until it is told to end:

    benchmarks/.venvs/xllamacpp/bin/python -m benchmarks.engines.llama_server -m FILE --port N --rows 16
"""

from __future__ import annotations

import argparse
import signal

import xllamacpp

from benchmarks.engines.xllamacpp import METHODS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rows", type=int, default=16, help="requests side by side")
    parser.add_argument("--context", type=int, default=16384, help="tokens of all rows together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--method", choices=METHODS, default="plain")
    given = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path, params.port = given.model, given.port
    params.n_parallel, params.n_ctx, params.kv_unified = given.rows, given.context, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.verbosity = 0
    method = METHODS[given.method]
    params.speculative.types = [method.kind]
    method.configure(params.speculative)
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
