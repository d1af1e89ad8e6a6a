"""Tokens per call at a temperature: `match` in shared noise, speculative sampling and block verification.

One draft model drafts for one target; the rules take turns on every prompt. Counts of calls do not depend on
the machine, so nothing here is timed.

    python benchmarks/sampling_rules.py --model FOLDER --quantize q8 --draft-model smollm2-135m-instruct
    python benchmarks/sampling_rules.py --model Q.gguf --bridge intersection --draft-model DRAFT.gguf
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import outpace
from outpace.bench.prompts import BUILTIN, read_prompts
from outpace.bench.report import markdown_table

RULES = ("match", "speculative", "block")


def main() -> int:
    arguments = parse()
    model = outpace.load(arguments.model, quantize=arguments.quantize)
    spec = f"small_model:model=[{arguments.draft_model}],bridge={arguments.bridge}"
    prompts = read_prompts(arguments.prompts or BUILTIN, limit=arguments.limit)
    rows = []
    for tree in arguments.tree:
        for rule in arguments.rule:
            drafter = model.new_drafter(spec, tree=tree)
            calls = tokens = drafted = accepted = 0
            for number, prompt in enumerate(prompts):
                stats = model.generate(
                    prompt.text,
                    draft=drafter,
                    rule=rule,
                    max_tokens=arguments.max_tokens,
                    temperature=arguments.temperature,
                    seed=arguments.seed + number,
                ).stats
                calls += stats.target_calls
                tokens += stats.completion_tokens - stats.first_tokens
                drafted += stats.num_drafted
                accepted += stats.num_accepted
                if sys.stderr.isatty():
                    print(f"\r{tree} {rule} {number + 1}/{len(prompts)}", end="", file=sys.stderr)
            rows.append(
                (tree, rule, f"{tokens / calls:.3f}", f"{accepted / max(1, drafted):.3f}", str(calls))
            )
            if arguments.json:
                record = {**vars(arguments), "prompts": str(arguments.prompts), "json": str(arguments.json)}
                record |= {"tree": tree, "rule": rule, "calls": calls, "tokens": tokens}
                with arguments.json.open("a") as file:
                    file.write(json.dumps(record | {"drafted": drafted, "accepted": accepted}) + "\n")
    print(
        markdown_table(("tree", "rule", "tokens per call", "drafts kept", "calls"), rows, num_text_columns=2)
    )
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--quantize", choices=("q8", "q4"))
    parser.add_argument("--draft-model", required=True)
    parser.add_argument("--bridge", default="auto", choices=("auto", "text", "intersection"))
    parser.add_argument("--tree", action="append", help="default: chain:length=4")
    parser.add_argument("--rule", action="append", help=f"default: {', '.join(RULES)}")
    parser.add_argument("--prompts", type=Path, help="JSONL; default: our own")
    parser.add_argument("--limit", type=int, help="prompts per category")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="append a record per line of the table")
    arguments = parser.parse_args()
    arguments.tree = arguments.tree or ["chain:length=4"]
    arguments.rule = arguments.rule or list(RULES)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
