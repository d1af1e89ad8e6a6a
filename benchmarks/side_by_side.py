"""Outpace and other engines on the same file, prompts and number of tokens, in one run on one machine.

Greedy. The engines take turns on every prompt and every block; times are given as the smallest and as the
median of the rounds. Every answer has as many tokens as Outpace's plain one.

    make peers MODEL=model.gguf                  # all engines that read it, all their ways to draft
    make compare                                 # llama.cpp alone, the default model, our own prompts
    make compare MODEL=model.gguf PROMPTS=file.jsonl LIMIT=2 TOKENS=128 ARGS="--requantize"
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import outpace
from benchmarks.engines.ours import NAME as OURS
from benchmarks.engines.ours import Ours
from benchmarks.engines.peer import NAMES, CannotOpen, open_peer
from benchmarks.speed_tables import PLAIN, call_table, decode_table, lead_table, prompt_table
from benchmarks.turns import Engine, Measured, Plan, Task, measure
from outpace.bench.prompts import BUILTIN, Prompt, read_prompts
from outpace.core.errors import OutpaceError
from outpace.files import catalog
from outpace.files.open import cache_folder


def model_file(name: str) -> Path:
    """The GGUF file of a path or a short name."""
    path = Path(name)
    return path if path.exists() else catalog.resolve(name)


def requantized(source: Path) -> Path:
    """A Q4_0 copy that llama.cpp writes, unless it is there."""
    copy = cache_folder() / "benchmarks" / f"{source.stem}.requantized-Q4_0.gguf"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with open_peer("llama_cpp", source, threads=1, context=64) as llama:
            llama.ask(do="requantize", target=str(copy))
    return copy


def chosen_methods(engine: Engine, wanted: Sequence[str] | None) -> list[str]:
    """Plain, and those of its ways to draft that are wanted; all for None, and for our own engine."""
    if wanted is None or engine.name == OURS:
        return list(engine.methods)
    return [method for method in engine.methods if method == PLAIN or method in wanted]


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def write_records(
    path: Path, measured: Measured, categories: Mapping[str, str], about: Mapping[str, Any]
) -> None:
    """Append what was measured: a record per answer, per engine and size of a call, per engine's prompts."""
    records: list[dict[str, Any]] = []
    for (engine, method), by_prompt in measured.answers.items():
        for prompt_id, repeats in by_prompt.items():
            tags = {"kind": "answer", "engine": engine, "method": method, "prompt_id": prompt_id}
            tags |= {"category": categories[prompt_id]}
            records += [tags | {"round": turn} | one for turn, one in enumerate(repeats)]
    for engine, by_size in measured.calls.items():
        for size, seconds in by_size.items():
            records.append({"kind": "call", "engine": engine, "size": size, "seconds": seconds})
    for engine, seconds in measured.prompts.items():
        records.append({"kind": "prompt", "engine": engine, "seconds": seconds})
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps({**about, **record}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=catalog.DEFAULT, help="a .gguf file or a short name of one")
    parser.add_argument(
        "--engine",
        action="append",
        help=f"of {', '.join(NAMES)}; llama_cpp if left out, the first is the reference",
    )
    parser.add_argument("--requantize", action="store_true", help="run all on a Q4_0 copy made by llama.cpp")
    parser.add_argument(
        "--draft-model", help="for peers that draft with a model: a .gguf file or a short name"
    )
    parser.add_argument("--prompts", type=Path, default=BUILTIN)
    parser.add_argument("--limit", type=int, help="the first N prompts of each category")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--draft", action="append", help="our drafts besides plain; ngram if left out")
    parser.add_argument("--method", action="append", help="the peers' ways to draft; all if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="tokens of timed calls"
    )
    parser.add_argument("--context", type=int, default=64, help="cached tokens before a timed call")
    parser.add_argument(
        "--prompt-size", type=int, default=512, help="length of the prompt that is timed; 0: none"
    )
    parser.add_argument("--threads", type=int, help="threads of every engine")
    parser.add_argument("--json", type=Path, help="append what was measured")
    args = parser.parse_args()
    if min([1, *args.sizes]) < 1 or min(args.rounds, args.context) < 1 or args.prompt_size < 0:
        parser.error("--sizes, --rounds and --context are at least 1, --prompt-size at least 0")
    if args.max_tokens < 2:
        parser.error("--max-tokens is at least 2: the first token comes from the prompt's call")
    try:
        run(args)
    except OutpaceError as error:
        raise SystemExit(f"error: {error}") from error


def run(args: argparse.Namespace) -> None:
    prompts = read_prompts(args.prompts, limit=args.limit)
    path = model_file(args.model)
    if args.requantize:
        path = requantized(path)
    draft_model = model_file(args.draft_model) if args.draft_model else None
    model = outpace.load(path, threads=args.threads)
    tasks = [Task(prompt.prompt_id, prompt.text, model.prompt_ids(prompt.text)) for prompt in prompts]
    longest = max(len(task.tokens) for task in tasks)
    # Room for what an engine drafts beyond the last token too.
    context = max(longest + args.max_tokens, args.context + max(args.sizes, default=0), args.prompt_size) + 64
    plan = Plan(tasks, args.max_tokens, args.rounds, args.sizes, args.context, args.prompt_size)
    names = args.engine or ["llama_cpp"]
    with ExitStack() as stack:
        engines: list[Engine] = [Ours(model, args.draft or ["ngram"])]
        for name in names:
            peer = open_peer(name, path, threads=model.num_threads, context=context, draft_model=draft_model)
            try:
                engines.append(stack.enter_context(peer))
            except CannotOpen as error:
                if name == names[0]:  # what all are compared with
                    raise
                print(f"left out: {error}", file=sys.stderr)
        about = {
            "file": path.name,
            "date": date.today().isoformat(),
            "processor": processor(),
            "threads": model.num_threads,
            "max_tokens": args.max_tokens,
            **{engine.name: engine.version for engine in engines},
        }
        print(", ".join(f"{key} {value}" for key, value in about.items()))
        methods = {engine.name: chosen_methods(engine, args.method) for engine in engines}
        measured = measure(engines, methods, plan, _progress)
    _report(measured, args, names[0], len(prompts))
    if args.json:
        write_records(args.json, measured, _categories(prompts), about)


def _report(measured: Measured, args: argparse.Namespace, reference: str, num_prompts: int) -> None:
    print(f"{num_prompts} prompts, greedy, {args.rounds} rounds, load {os.getloadavg()[0]:.2f}\n")
    print(decode_table(measured, reference))
    if measured.calls:
        print(f"\nbehind {args.context} tokens, smallest (median):\n")
        print(call_table(measured))
    if measured.prompts:
        print(f"\n{prompt_table(measured, args.prompt_size, reference)}")
    print(f"\n{lead_table(measured, OURS, reference)}")


def _categories(prompts: Sequence[Prompt]) -> dict[str, str]:
    return {prompt.prompt_id: prompt.category for prompt in prompts}


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr)


if __name__ == "__main__":
    main()
