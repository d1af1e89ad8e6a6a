"""How true the engines stay to the model: agreement with transformers in f32, and perplexity.

The reference is transformers on the dequantised weights of the same GGUF file. It continues each prompt
greedily; then each engine reads prompt and continuation, and its own choice at every position of the
continuation is compared with the reference's. So one early difference does not count for all that follows it.
Perplexity is over the first tokens of one text.

    make fidelity MODEL=model.gguf PROMPTS=file.jsonl
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import outpace
from benchmarks.engines.peer import open_peer
from outpace.bench.prompts import BUILTIN, read_prompts
from outpace.bench.report import markdown_table
from outpace.core.call import Call
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.files import catalog

CHUNK = 64

Followed = tuple[
    list[int], list[float]
]  # per token but the last: argmax after it, log-probability of the next


def follow(model: outpace.Model, tokens: Sequence[int]) -> Followed:
    """What our target would choose after every token of a text, and how likely it finds the text."""
    choices: list[int] = []
    log_probs: list[float] = []
    row = model.target.open()
    try:
        start, chunk = 0, list(tokens[:1])
        while True:
            scores = model.target.score([Call.on(row, TokenTree.chain(chunk[0], chunk[1:]))])
            model.target.keep([row], [list(range(1, len(chunk)))])
            following = tokens[start + 1 : start + 1 + len(chunk)]
            chosen = scores.choose([Sampling()], [start])[0][: len(following)]
            logits = scores.logits(0, range(len(following))).astype(np.float64)  # [n, V]
            choices += chosen
            log_probs += _log_probs(logits, following)
            start += len(chunk)
            chunk = list(tokens[start : start + CHUNK])
            if len(chunk) == 0 or start + 1 >= len(tokens):
                return choices, log_probs
    finally:
        model.target.free([row])


def follow_reference(reference: torch.nn.Module, tokens: Sequence[int]) -> Followed:
    """The same of transformers."""
    with torch.inference_mode():
        logits = reference(torch.tensor([tokens])).logits[0, :-1].double().numpy()
    return logits.argmax(axis=1).tolist(), _log_probs(logits, tokens[1:])


def continuation(reference: torch.nn.Module, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The reference's own greedy tokens, over an end of text too."""
    ids = torch.tensor([prompt])
    tokens: list[int] = []
    cache = None
    with torch.inference_mode():
        for _ in range(num_tokens):
            out = reference(ids, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            ids = out.logits[:, -1:].argmax(dim=-1)
            tokens.append(int(ids))
    return tokens


def perplexity(log_probs: Sequence[float]) -> float:
    return math.exp(-sum(log_probs) / len(log_probs))


def _log_probs(logits: np.ndarray, following: Sequence[int]) -> list[float]:
    logits = logits[: len(following)] - logits[: len(following)].max(axis=1, keepdims=True)
    picked = logits[np.arange(len(following)), list(following)]
    result: list[float] = (picked - np.log(np.exp(logits).sum(axis=1))).tolist()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=catalog.DEFAULT, help="a .gguf file or a short name of one")
    parser.add_argument("--prompts", type=Path, default=BUILTIN)
    parser.add_argument(
        "--num-prompts", type=int, default=20, help="prompts to continue, spread over the file"
    )
    parser.add_argument("--tokens", type=int, default=64, help="positions compared after each prompt")
    parser.add_argument("--text", type=Path, help="text for the perplexity; the prompts joined if left out")
    parser.add_argument("--text-tokens", type=int, default=4000)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    try:
        run(args)
    except OutpaceError as error:
        raise SystemExit(f"error: {error}") from error


def run(args: argparse.Namespace) -> None:
    path = catalog.resolve(args.model)
    model = outpace.load(path, threads=args.threads)
    everything = read_prompts(args.prompts)
    stride = max(1, len(everything) // args.num_prompts)
    prompts = [model.prompt_ids(prompt.text) for prompt in everything[::stride][: args.num_prompts]]
    text = args.text.read_text() if args.text else "\n\n".join(prompt.text for prompt in everything)
    text_ids = model.prompt_ids(text, raw=True)[: args.text_tokens]
    reference = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    reference.eval()
    texts = [(prompt, continuation(reference, prompt, args.tokens)) for prompt in prompts]
    longest = max(len(text_ids), *(len(prompt) + args.tokens for prompt in prompts))
    with open_peer("llama_cpp", path, threads=model.num_threads, context=longest + 8) as llama:

        def follow_llama(tokens: Sequence[int]) -> Followed:
            answer = llama.ask(do="follow", tokens=list(tokens))
            return answer["choices"], answer["log_probs"]

        engines = {
            "outpace": lambda tokens: follow(model, tokens),
            "llama.cpp": follow_llama,
            "transformers": lambda tokens: follow_reference(reference, tokens),
        }
        rows = []
        for name, engine in engines.items():
            agreed = 0
            for prompt, continued in texts:
                choices, _ = engine([*prompt, *continued])
                agreed += sum(a == b for a, b in zip(choices[len(prompt) - 1 :], continued, strict=True))
            total = len(texts) * args.tokens
            rows.append((name, f"{agreed}/{total}", f"{perplexity(engine(text_ids)[1]):.4f}"))
    counts = f"{len(texts)} prompts, {args.tokens} positions each, {len(text_ids)} tokens of text"
    print(f"file {path.name}, {counts}\n")
    print(markdown_table(("engine", "choices equal to transformers", "perplexity"), rows, num_text_columns=1))


if __name__ == "__main__":
    main()
