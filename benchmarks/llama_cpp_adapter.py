"""llama.cpp behind a pipe: a JSON request a line on standard input, a JSON answer a line on standard output.

Runs in an environment of its own (`benchmarks/.venv`) and imports nothing of ours. Token ids go in and come
out, so both engines get exactly the same prompt. Requests:

    {"do": "generate", "tokens": [...], "max_tokens": N, "num_pred": P}
    {"do": "prefill", "tokens": [...]}
    {"do": "follow", "tokens": [...]}

Exactly `max_tokens` tokens are generated, greedily; an end-of-text token does not stop it. P = 0 is plain
decoding in the shortest loop that llama.cpp allows (evaluate, argmax), quicker than its own sampler chain.
P > 0 is the prompt lookup that llama-cpp-python ships, drafting P tokens at once, run by its own `generate`.
"follow" says, for every token but the last, the argmax after it and the log-probability of what does follow.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

Q4_0 = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
CHUNK = 256


def requantize(source: str, target: str) -> None:
    """Write `source` with its matrices in Q4_0, the type whose kernels llama.cpp has tuned most."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = Q4_0
    options.allow_requantize = True
    partial = f"{target}.part"
    if llama_cpp.llama_model_quantize(source.encode(), partial.encode(), options) != 0:
        raise SystemExit(f"llama.cpp could not requantize {source}")
    os.replace(partial, target)


def load(args: argparse.Namespace, draft: LlamaPromptLookupDecoding | None) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        args.model,
        n_ctx=args.context,
        n_batch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        draft_model=draft,
        logits_all=draft is not None,  # it would turn this on for itself, but without room for it
        verbose=False,
    )


def argmax(llm: llama_cpp.Llama) -> int:
    logits = llama_cpp.llama_get_logits_ith(llm.ctx, -1)
    return int(np.argmax(np.ctypeslib.as_array(logits, shape=(llm.n_vocab(),))))


def plain(llm: llama_cpp.Llama, tokens: Sequence[int], max_tokens: int) -> dict[str, Any]:
    llm.reset()
    start = time.perf_counter()
    llm.eval(tokens)
    generated = [argmax(llm)]
    first = time.perf_counter()
    while len(generated) < max_tokens:
        llm.eval(generated[-1:])
        generated.append(argmax(llm))
    return answer(generated, start, first)


def lookup(llm: llama_cpp.Llama, tokens: Sequence[int], max_tokens: int) -> dict[str, Any]:
    llm.reset()
    start = time.perf_counter()
    generator = llm.generate(tokens, temp=0.0, repeat_penalty=1.0)
    generated = [next(generator)]
    first = time.perf_counter()
    generated += itertools.islice(generator, max_tokens - 1)
    return answer(generated, start, first)


def answer(generated: Sequence[int], start: float, first: float) -> dict[str, Any]:
    return {
        "token_ids": [int(token) for token in generated],
        "prefill_s": first - start,
        "decode_s": time.perf_counter() - first,
    }


def prefill(llm: llama_cpp.Llama, tokens: Sequence[int]) -> dict[str, Any]:
    llm.reset()
    start = time.perf_counter()
    llm.eval(tokens)
    argmax(llm)
    return {"prefill_s": time.perf_counter() - start}


def follow(llm: llama_cpp.Llama, tokens: Sequence[int]) -> dict[str, Any]:
    choices: list[int] = []
    log_probs: list[float] = []
    llm.reset()
    for start in range(0, len(tokens) - 1, CHUNK):
        chunk = list(tokens[start : start + CHUNK])
        llm.eval(chunk)
        logits = np.array(llm.scores[start : start + len(chunk)], dtype=np.float64)  # [chunk, V]
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        following = tokens[start + 1 : start + 1 + len(chunk)]
        choices += logits.argmax(axis=1)[: len(following)].tolist()
        log_probs += logits[np.arange(len(following)), following].tolist()
    return {"choices": choices, "log_probs": log_probs}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--requantize", metavar="OUT.gguf", help="write a Q4_0 copy of the model and leave")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--context", type=int, default=4096)
    args = parser.parse_args()
    # The library may print to standard output; answers must be all that is there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if args.requantize:
        requantize(args.model, args.requantize)
        return
    draft = LlamaPromptLookupDecoding()
    # Two contexts: with a draft model it computes logits of the whole prompt, which plain has no use for.
    plainly, drafting = load(args, None), load(args, draft)
    print(json.dumps({"version": llama_cpp.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "prefill":
            reply = prefill(plainly, request["tokens"])
        elif request["do"] == "follow":
            reply = follow(drafting, request["tokens"])  # the context that has all logits
        elif request["num_pred"] == 0:
            reply = plain(plainly, request["tokens"], request["max_tokens"])
        else:
            draft.num_pred_tokens = request["num_pred"]
            reply = lookup(drafting, request["tokens"], request["max_tokens"])
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
