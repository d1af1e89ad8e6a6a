"""Several prompts at once, with and without drafts: drafts have to pay where rows share a call, too.

Every round runs plain decoding and each draft in turn, each with a drafter that has seen nothing. The texts
must be those of plain decoding. A round's speed counts the tokens after the last row's first one.

    python -m benchmarks.batches --rows 8 --draft mix --draft ngram --prompts spec_bench.jsonl
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import outpace
from benchmarks.side_by_side import model_file
from outpace.bench.prompts import BUILTIN, read_prompts
from outpace.bench.report import markdown_table
from outpace.core.errors import OutpaceError
from outpace.files import catalog
from outpace.models.text import Model

PLAIN = "none"


def speeds(
    model: Model, batches: Sequence[Sequence[str]], drafts: Sequence[str], *, max_tokens: int, rounds: int
) -> dict[str, list[float]]:
    """Tokens/s of each round, by draft. Raises OutpaceError for a text that drafts have changed."""
    found: dict[str, list[float]] = {draft: [] for draft in drafts}
    for _ in range(rounds):
        drafters = {draft: model.new_drafter(draft) for draft in drafts}
        tokens, seconds = dict.fromkeys(drafts, 0), dict.fromkeys(drafts, 0.0)
        for batch in batches:
            texts = {}
            for draft in drafts:
                rows = model.generate(list(batch), draft=drafters[draft], max_tokens=max_tokens)
                began = max(row.stats.time_to_first_token_s for row in rows)
                seconds[draft] += max(row.stats.wall_s for row in rows) - began
                tokens[draft] += sum(len(row.token_ids) - 1 for row in rows)
                texts[draft] = [row.token_ids for row in rows]
            if changed := [draft for draft in drafts if texts[draft] != texts[drafts[0]]]:
                raise OutpaceError(f"{changed[0]} says something else than {drafts[0]}")
        for draft in drafts:
            found[draft].append(tokens[draft] / seconds[draft])
    return found


def table(found: dict[str, list[float]], num_rows: int) -> str:
    """Medians over the rounds: of the speeds, and of what they are of the first one's in the same round."""
    first = next(iter(found.values()))
    rows = [
        [
            draft,
            f"{statistics.median(each):.1f}",
            f"{statistics.median(one / plain for one, plain in zip(each, first, strict=True)):.2f}",
        ]
        for draft, each in found.items()
    ]
    return markdown_table(
        [f"{num_rows} rows at once", "tokens/s", "speed to plain"], rows, num_text_columns=1
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=catalog.DEFAULT, help="a .gguf file or a short name of one")
    parser.add_argument("--rows", type=int, default=8, help="prompts that run at once")
    parser.add_argument("--draft", action="append", help="what drafts, besides plain; mix if left out")
    parser.add_argument("--prompts", type=Path, default=BUILTIN)
    parser.add_argument("--limit", type=int, help="the first N prompts of each category")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if min(args.rows, args.rounds) < 1 or args.max_tokens < 2:
        parser.error("--rows and --rounds are at least 1, --max-tokens at least 2")
    try:
        texts = [prompt.text for prompt in read_prompts(args.prompts, limit=args.limit)]
        batches = [texts[first : first + args.rows] for first in range(0, len(texts), args.rows)]
        model = outpace.load(model_file(args.model), threads=args.threads)
        drafts = [PLAIN, *(args.draft or ["mix"])]
        found = speeds(model, batches, drafts, max_tokens=args.max_tokens, rounds=args.rounds)
    except OutpaceError as error:
        raise SystemExit(f"error: {error}") from error
    print(table(found, args.rows))


if __name__ == "__main__":
    main()
