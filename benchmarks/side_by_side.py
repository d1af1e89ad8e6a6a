"""llama.cpp and Outpace on the same file, prompts and number of tokens, in one run on one machine.

Greedy decoding. The engines take turns on every prompt; each prompt's time is the median of its repeats, and
the table adds these up, so one slow moment of the machine counts for neither. Outpace decodes plainly and
with a draft, llama.cpp plainly and with its own prompt lookup. Every answer has as many tokens as Outpace's
plain one.

    make compare                                 # the default model, our own prompts
    make compare MODEL=model.gguf PROMPTS=file.jsonl LIMIT=2 TOKENS=128 ARGS="--requantize"
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from llama_cpp_process import PYTHON, LlamaCpp, llama_cpp, requantize

import outpace
from outpace.bench.prompts import BUILTIN, Prompt, read_prompts
from outpace.bench.report import markdown_table
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling

THEIRS = "llama.cpp"
OURS = "outpace"
PAUSE_S = 0.05  # between turns: worker threads of the engine that has just run may still be spinning

Measured = dict[tuple[str, str], dict[str, list[dict[str, Any]]]]  # (engine, method) -> prompt id -> repeats


def ours(model: outpace.Model, prompt: Prompt, draft: str, max_tokens: int) -> dict[str, Any]:
    generation = model.generate(prompt.text, draft=draft, max_tokens=max_tokens)
    stats = generation.stats
    decode_s = stats.wall_s - stats.time_to_first_token_s
    return {"token_ids": generation.token_ids, "decode_s": decode_s, "prefill_s": stats.prefill_s}


def measure(
    model: outpace.Model, llama: LlamaCpp, prompts: Sequence[Prompt], args: argparse.Namespace
) -> Measured:
    """All methods on all prompts, `args.repeats` times over."""
    measured: Measured = {}
    lengths: dict[str, int] = {}

    def note(engine: str, method: str, prompt: Prompt, answer: dict[str, Any]) -> None:
        measured.setdefault((engine, method), {}).setdefault(prompt.prompt_id, []).append(answer)
        time.sleep(PAUSE_S)

    for turn in range(args.repeats):
        for count, prompt in enumerate(prompts, start=1):
            if sys.stderr.isatty():
                print(
                    f"\rround {turn + 1}/{args.repeats}, prompt {count}/{len(prompts)} ",
                    end="",
                    file=sys.stderr,
                )
            plain = ours(model, prompt, "none", args.max_tokens)
            note(OURS, "plain", prompt, plain)
            lengths[prompt.prompt_id] = len(plain["token_ids"])
            for draft in args.draft:
                note(OURS, draft, prompt, ours(model, prompt, draft, args.max_tokens))
            tokens = model.prompt_ids(prompt.text)
            for num_pred in (0, *args.num_pred):
                method = f"its prompt lookup, {num_pred} tokens" if num_pred else "plain"
                answer = llama.ask(
                    do="generate", tokens=tokens, max_tokens=lengths[prompt.prompt_id], num_pred=num_pred
                )
                note(THEIRS, method, prompt, answer)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return measured


def decode_table(measured: Measured) -> str:
    """Tokens per second after the first token, and what that is to llama.cpp's plain decoding."""
    speeds = {key: _speed(by_prompt) for key, by_prompt in measured.items()}
    reference = speeds[THEIRS, "plain"]
    rows = []
    for (engine, method), by_prompt in measured.items():
        plain = measured[engine, "plain"]
        same = sum(
            repeats[0]["token_ids"] == plain[name][0]["token_ids"] for name, repeats in by_prompt.items()
        )
        speed = speeds[engine, method]
        rows.append(
            (
                engine,
                method,
                f"{speed:.1f}",
                f"{1e3 / speed:.2f}",
                f"{reference / speed:.2f}",
                f"{speed / reference:.2f}",
                f"{same}/{len(by_prompt)}",
            )
        )
    header = (
        "engine", "decoding", "tokens/s", "ms per token", "time to llama.cpp plain",
        "speed to llama.cpp plain", "prompts identical to its plain",
    )  # fmt: skip
    return markdown_table(header, rows, num_text_columns=2)


def prefill_table(model: outpace.Model, llama: LlamaCpp, num_tokens: int, repeats: int) -> str:
    """Milliseconds to process a prompt of `num_tokens` tokens up to the choice of the next one."""
    times: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for turn in range(repeats + 1):
        # A new text each time: nothing that an engine may remember helps it.
        tokens = [(position * 37 + turn * 101) % 4000 + 10 for position in range(num_tokens)]
        start = time.perf_counter()
        rows, scores = model.target.prefill([tokens])
        scores.choose([Sampling()], [num_tokens - 1])
        seconds = time.perf_counter() - start
        model.target.free(rows)
        time.sleep(PAUSE_S)
        theirs = llama.ask(do="prefill", tokens=tokens)["prefill_s"]
        time.sleep(PAUSE_S)
        if turn > 0:  # the first one warms up
            times[OURS].append(seconds)
            times[THEIRS].append(theirs)
    medians = {engine: statistics.median(values) for engine, values in times.items()}
    rows_ = [
        (engine, f"{1e3 * seconds:.1f}", f"{num_tokens / seconds:.0f}", f"{medians[THEIRS] / seconds:.2f}")
        for engine, seconds in medians.items()
    ]
    header = ("engine", f"ms for {num_tokens} tokens", "tokens/s", "speed to llama.cpp")
    return markdown_table(header, rows_, num_text_columns=1)


def _speed(by_prompt: dict[str, list[dict[str, Any]]]) -> float:
    # The first token of an answer comes from the prompt's call and is not decoding.
    tokens = sum(len(repeats[0]["token_ids"]) - 1 for repeats in by_prompt.values())
    seconds = sum(statistics.median(one["decode_s"] for one in repeats) for repeats in by_prompt.values())
    return tokens / seconds


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _write_records(path: Path, measured: Measured, prompts: Sequence[Prompt], about: dict[str, Any]) -> None:
    categories = {prompt.prompt_id: prompt.category for prompt in prompts}
    with path.open("a", encoding="utf-8") as file:
        for (engine, method), by_prompt in measured.items():
            for prompt_id, repeats in by_prompt.items():
                for repeat, one in enumerate(repeats):
                    tags = {"engine": engine, "method": method, "prompt_id": prompt_id, "repeat": repeat}
                    file.write(json.dumps(about | tags | {"category": categories[prompt_id]} | one) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="a .gguf file or a short name of one"
    )
    parser.add_argument("--requantize", action="store_true", help="run both on a Q4_0 copy made by llama.cpp")
    parser.add_argument("--prompts", type=Path, default=BUILTIN)
    parser.add_argument("--limit", type=int, help="the first N prompts of each category")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--draft", action="append", help="our drafts besides plain; ngram if left out")
    parser.add_argument(
        "--num-pred", type=int, nargs="*", default=[2, 10], help="lengths of its prompt lookup"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--prefill", type=int, default=512, help="length of the prompt whose processing is timed"
    )
    parser.add_argument("--threads", type=int, help="threads of both engines")
    parser.add_argument("--python", default=str(PYTHON), help="the interpreter with llama.cpp")
    parser.add_argument("--json", type=Path, help="append one record per answer")
    args = parser.parse_args()
    args.draft = args.draft or ["ngram"]
    try:
        run(args)
    except OutpaceError as error:
        raise SystemExit(f"error: {error}") from error


def run(args: argparse.Namespace) -> None:
    from outpace.formats import catalog
    from outpace.formats.open import cache_folder

    prompts = read_prompts(args.prompts, limit=args.limit)
    path = Path(args.model)
    if not path.exists():
        path = catalog.resolve(args.model)
    if args.requantize:
        copy = cache_folder() / "benchmarks" / f"{path.stem}.requantized-Q4_0.gguf"
        requantize(args.python, path, copy)
        path = copy
    model = outpace.load(path, threads=args.threads)
    longest = max(len(model.prompt_ids(prompt.text)) for prompt in prompts)
    context = max(longest + args.max_tokens + 64, args.prefill + 8)
    with llama_cpp(args.python, path, threads=model.num_threads, context=context) as llama:
        about = {
            "file": path.name,
            "date": date.today().isoformat(),
            "processor": _processor(),
            "threads": model.num_threads,
            "max_tokens": args.max_tokens,
            "outpace": outpace.__version__,
            "llama_cpp_python": llama.version,
        }
        ours(model, prompts[0], "none", 8)  # weights into memory, threads awake
        llama.ask(do="generate", tokens=model.prompt_ids(prompts[0].text), max_tokens=8, num_pred=0)
        measured = measure(model, llama, prompts, args)
        print(", ".join(f"{key} {value}" for key, value in about.items()))
        print(f"{len(prompts)} prompts, greedy, median of {args.repeats}, load {os.getloadavg()[0]:.2f}\n")
        print(decode_table(measured))
        print()
        print(prefill_table(model, llama, args.prefill, max(args.repeats, 5)))
    if args.json:
        _write_records(args.json, measured, prompts, about)


if __name__ == "__main__":
    main()
