"""Plain decoding beside busy processes on the same processors: how much of the quiet speed is left.

Every round decodes one prompt beside each number of busy processes in turn, so that a machine that slows down
slows all of them; a busy process does nothing but count. The tokens must be the same every time.

    python -m benchmarks.busy --model smollm2-135m-instruct --threads 2 --engine ik_llama_cpp
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path

import outpace
from benchmarks.engines.ours import NAME as OURS
from benchmarks.engines.ours import Ours
from benchmarks.engines.peer import NAMES, open_peer
from benchmarks.side_by_side import model_file, processor
from benchmarks.turns import Engine
from outpace.bench.report import markdown_table
from outpace.core.errors import OutpaceError
from outpace.files import catalog

PROMPT = "Tell the story of a lighthouse, from the day on which it was built."
SETTLE_S = 0.3  # a busy process has started by then, and the last ones have gone

Decode = Callable[[], tuple[Sequence[int], float]]  # the tokens of one answer, and their speed in tokens/s


def usable_processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fair_share(threads: int, busy: int, processors: int) -> float:
    """The part of its quiet speed that an engine has left where the system gives every thread the same."""

    def each(running: int) -> float:
        return min(1.0, processors / running)

    return each(threads + busy) / each(threads)


@contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that never rest, on the processors of this one, for the length of a `with` block."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        time.sleep(SETTLE_S)
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def measure(
    engines: Mapping[str, Decode], levels: Sequence[int], rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Tokens/s of every round, by engine and number of busy processes.

    Raises OutpaceError where busy neighbours change what an engine says.
    """
    speeds: dict[str, dict[int, list[float]]] = {name: {level: [] for level in levels} for name in engines}
    answers: dict[str, Sequence[int]] = {}
    for _ in range(rounds):
        for level in levels:
            for name, decode in engines.items():
                with busy_processes(level):
                    tokens, speed = decode()
                if list(answers.setdefault(name, tokens)) != list(tokens):
                    raise OutpaceError(f"{name} says something else beside {level} busy processes")
                speeds[name][level].append(speed)
    return speeds


def table(speeds: Mapping[str, Mapping[int, Sequence[float]]], threads: int, processors: int) -> str:
    """Medians, and what they are of the quiet one (of the least busy one, where none is quiet)."""
    rows = []
    for name, by_level in speeds.items():
        medians = {level: statistics.median(values) for level, values in by_level.items()}
        quiet = medians[min(medians)]
        for level, median in medians.items():
            fair = fair_share(threads, level, processors) / fair_share(threads, min(medians), processors)
            spread = f"{min(by_level[level]):.1f}-{max(by_level[level]):.1f}"
            rows.append((name, str(level), f"{median:.1f}", spread, f"{median / quiet:.2f}", f"{fair:.2f}"))
    header = ("engine", "busy processes", "tokens/s", "from - to", "of its quiet speed", "fair share")
    return markdown_table(header, rows, num_text_columns=1)


def plainly(engine: Engine, prompt_ids: Sequence[int], max_tokens: int) -> Decode:
    """Decodes one prompt plainly; the first token comes from the prompt's call and is not counted."""

    def decode() -> tuple[Sequence[int], float]:
        answer = engine.decode(PROMPT, prompt_ids, max_tokens, "plain")
        return answer["token_ids"], (len(answer["token_ids"]) - 1) / answer["decode_s"]

    return decode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=catalog.DEFAULT, help="a .gguf file or a short name of one")
    parser.add_argument(
        "--threads", type=int, help="threads of every engine; as many as ours takes by itself"
    )
    parser.add_argument("--engine", action="append", help=f"a peer beside {OURS}: {', '.join(NAMES)}")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4], help="numbers of busy processes")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="append one record per engine and number of busy processes")
    args = parser.parse_args()
    if min(args.busy) < 0 or args.rounds < 1 or args.max_tokens < 2:
        parser.error("--busy is at least 0, --rounds at least 1 and --max-tokens at least 2")
    try:
        run(args)
    except OutpaceError as error:
        raise SystemExit(f"error: {error}") from error


def run(args: argparse.Namespace) -> None:
    path = model_file(args.model)
    model = outpace.load(path, threads=args.threads)
    tokens = model.prompt_ids(PROMPT)
    levels = sorted(set(args.busy))
    processors = usable_processors()
    context = len(tokens) + args.max_tokens + 64
    with ExitStack() as stack:
        engines: list[Engine] = [Ours(model, [])]
        for name in args.engine or []:
            peer = open_peer(name, path, threads=model.num_threads, context=context)
            engines.append(stack.enter_context(peer))
        decodes = {engine.name: plainly(engine, tokens, args.max_tokens) for engine in engines}
        for decode in decodes.values():
            decode()  # weights into memory
        speeds = measure(decodes, levels, args.rounds)
    about = {
        "file": path.name,
        "date": date.today().isoformat(),
        "processor": processor(),
        "threads": model.num_threads,
        "processors": processors,
        "max_tokens": args.max_tokens,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"plain decoding, greedy, median of {args.rounds}\n")
    print(table(speeds, model.num_threads, processors))
    if args.json:
        with args.json.open("a", encoding="utf-8") as file:
            for engine, by_level in speeds.items():
                for level, values in by_level.items():
                    record = about | {"engine": engine, "busy": level, "tokens_per_s": values}
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
