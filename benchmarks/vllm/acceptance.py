"""Heads of ours in vLLM: exported, loaded there, and how many of their drafts are kept, beside our own count.

The same prompts as token ids, greedy, a chain of the same length. vLLM reads the model's weights as float32
from a folder that transformers has written from the file. Ours runs twice: on the file as it is, and on that
folder, with the exported heads imported for it. So a head that acts otherwise in vLLM stands out from weights
that are rounded otherwise. What is kept depends on the text too: where two engines have written the same one,
they are compared on that alone.

    make vllm HEADS="eagle/ medusa/" PROMPTS=spec_bench.jsonl LIMIT=1 TOKENS=64
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import outpace
from benchmarks.engines.peer import ENVIRONMENTS, start
from benchmarks.vllm.target_folder import target_folder
from outpace.bench.prompts import BUILTIN, Prompt, read_prompts
from outpace.bench.report import markdown_table
from outpace.core.errors import OutpaceError
from outpace.files import catalog
from outpace.files.open import cache_folder
from outpace.heads.foreign.giving import give_out
from outpace.heads.foreign.taking import take_in

PYTHON = ENVIRONMENTS / "vllm/bin/python"
METHODS = {"eagle": "eagle3", "medusa": "medusa"}  # ours, and what vLLM calls them
VLLM = "vllm"


@dataclass(frozen=True)
class Found:
    """An answer: its tokens, the calls that verified a draft, and by depth the drafts right up to there."""

    token_ids: list[int]
    drafts: int
    accepted_at: list[int]


class Drafting(Protocol):
    """An engine with a model and heads."""

    def __call__(self, text: str, tokens: Sequence[int]) -> Found: ...


@contextmanager
def in_vllm(
    folder: Path, heads: Path, method: str, *, stop: Sequence[int], context: int, args: argparse.Namespace
) -> Iterator[tuple[str, Drafting]]:
    """Its version, and the engine."""
    options: dict[str, Any] = {
        "model": folder, "heads": heads, "method": METHODS[method], "depth": args.depth,
        "dtype": args.dtype, "threads": args.threads, "context": context,
    }  # fmt: skip
    named = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with start(VLLM, [str(args.python), "-m", f"{__package__}.adapter", *named]) as peer:

        def draft(text: str, tokens: Sequence[int]) -> Found:
            answer = peer.ask(do="decode", tokens=list(tokens), max_tokens=args.max_tokens, stop=list(stop))
            return Found(answer["token_ids"], answer["drafts"], answer["accepted_at"])

        yield peer.version, draft


def in_ours(model: outpace.Model, heads: Path, method: str, args: argparse.Namespace) -> Drafting:
    """The same here."""

    def draft(text: str, tokens: Sequence[int]) -> Found:
        # A drafter of its own for each answer: none has seen it before.
        drafter = model.new_drafter(f"{method}:path={heads}", tree=f"chain:length={args.depth}")
        generation = model.generate(text, draft=drafter, max_tokens=args.max_tokens)
        stats = generation.stats
        missing = [0] * (args.depth - len(stats.num_kept_at))
        return Found(
            list(generation.token_ids), (stats.num_tried_at or [0])[0], [*stats.num_kept_at, *missing]
        )

    return draft


def method_of(heads: Path) -> str:
    """The method of a folder of ours; OutpaceError for one that vLLM has no name for."""
    try:
        config = json.loads((heads / "config.json").read_text())
        method, generation = config.get("method"), config.get("generation", "eagle3")
    except (OSError, ValueError, AttributeError) as error:
        raise OutpaceError(f"{heads} is no folder of heads: {error}") from error
    if method not in METHODS or generation != "eagle3":
        raise OutpaceError(f"{heads} holds {method!r}, accepted are EAGLE-3 layers and Medusa heads of ours")
    return str(method)


def sums(found: Sequence[Found], depth: int) -> list[str]:
    """Cells: prompts, drafts, the part kept at each depth, tokens per call."""
    drafts = sum(one.drafts for one in found)
    kept = [sum(one.accepted_at[at] for one in found) for at in range(depth)]
    shares = [f"{count / drafts:.3f}" if drafts else "-" for count in kept]
    return [str(len(found)), str(drafts), *shares, f"{1 + sum(kept) / drafts:.3f}" if drafts else "-"]


def table(measured: dict[str, list[Found]], depth: int) -> str:
    """A line for each engine; and two for each of ours, of the prompts where its text is vLLM's."""
    rows = [(name, "all", *sums(found, depth)) for name, found in measured.items()]
    theirs = next(name for name in measured if name.startswith(VLLM))
    for name, found in measured.items():
        pairs = list(zip(found, measured[theirs], strict=True))
        same = [pair for pair in pairs if pair[0].token_ids == pair[1].token_ids]
        if name != theirs and same:
            for of, some in zip((name, theirs), zip(*same, strict=True), strict=True):
                rows.append((of, f"same as {theirs if of == name else name}", *sums(some, depth)))
    kept = [f"kept at {at + 1}" for at in range(depth)]
    header = ("engine", "texts", "prompts", "drafts", *kept, "tokens per call")
    return markdown_table(header, rows, num_text_columns=2)


def measure(heads: Path, args: argparse.Namespace, prompts: Sequence[Prompt]) -> dict[str, list[Found]]:
    """What each engine made of each prompt, with these heads."""
    method, source = method_of(heads), catalog.resolve(args.model)
    args.work.mkdir(parents=True, exist_ok=True)
    folder = target_folder(source, args.work / source.stem)
    model = outpace.load(source, threads=args.threads)
    ids = [model.prompt_ids(prompt.text) for prompt in prompts]
    context = max(map(len, ids)) + args.max_tokens + args.depth + 1
    measured: dict[str, list[Found]] = {}

    def run(name: str, draft: Drafting) -> None:
        measured[name] = [draft(prompt.text, tokens) for prompt, tokens in zip(prompts, ids, strict=True)]

    with tempfile.TemporaryDirectory() as place:
        given, taken = Path(place) / "given", Path(place) / "taken"
        names: dict[str, Any] = {"target_name": str(folder), "architecture": model.config.architecture}
        for note in give_out(heads, given, vocab_size=model.target.vocab_size, **names).notes:
            print(f"note: {note}", file=sys.stderr)
        stop = sorted(model.tokenizer.eos_ids)
        with in_vllm(folder, given, method, stop=stop, context=context, args=args) as (version, draft):
            run(f"{VLLM} {version}, {args.dtype}", draft)
        run("outpace, the file", in_ours(model, heads, method, args))
        model.close()
        unpacked = outpace.load(folder, threads=args.threads)
        take_in(given, unpacked.target, str(folder), taken)
        run("outpace, the folder", in_ours(unpacked, taken, method, args))
        unpacked.close()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("heads", type=Path, nargs="+", help="folders of `outpace train eagle` or `medusa`")
    parser.add_argument("--model", default=catalog.DEFAULT, help="a .gguf file or a short name of one")
    parser.add_argument("--prompts", type=Path, default=BUILTIN)
    parser.add_argument("--limit", type=int, help="the first N prompts of each category")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4, help="tokens of a draft")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="vLLM's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=cache_folder() / "benchmarks" / "vllm")
    parser.add_argument("--python", type=Path, default=PYTHON, help="of an environment with vLLM")
    parser.add_argument("--json", type=Path, help="append a line for each engine and prompt")
    args = parser.parse_args()
    try:
        run(args)
    except OutpaceError as error:
        raise SystemExit(f"error: {error}") from error


def run(args: argparse.Namespace) -> None:
    if not args.python.exists():
        raise OutpaceError(f"{args.python} does not exist: make benchmarks/.venvs/vllm/.ready")
    prompts = read_prompts(args.prompts, limit=args.limit)
    for heads in args.heads:
        measured = measure(heads, args, prompts)
        print(f"{heads}, {args.model}, {args.max_tokens} tokens\n")
        print(f"{table(measured, args.depth)}\n", flush=True)
        if args.json:
            with args.json.open("a") as file:
                for engine, found in measured.items():
                    for prompt, one in zip(prompts, found, strict=True):
                        tags = {"heads": str(heads), "engine": engine, "prompt_id": prompt.prompt_id}
                        file.write(json.dumps(tags | asdict(one)) + "\n")


if __name__ == "__main__":
    main()
