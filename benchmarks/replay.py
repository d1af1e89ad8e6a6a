"""Drafts replayed on known answers: what a drafter would gain at a given price of a node, without a clock.

A greedy answer does not depend on the drafts. So it is decoded once, and every drafter then drafts along it;
a call that scores n drafted nodes costs 1 + n * price. Drafters are compared in seconds, to the last digit,
on a machine that does other things. Only those that read tokens alone: lookups, tables, `mix` of them.

    python -m benchmarks.replay --prompts spec_bench_dev.jsonl --limit 10 --draft ngram --draft mix
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import outpace
from outpace.bench.prompts import BUILTIN, read_prompts
from outpace.bench.report import markdown_table
from outpace.core.call import Prompt
from outpace.core.contracts import Drafter
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, RowScores, Step, Verdict
from outpace.drafters import make_drafter
from outpace.pricing.costs import straight

PRICES = (0.24, 0.17, 0.05, 0.02)
BUDGET = 64  # nodes of a tree at most


@dataclass
class Sums:
    """Of a drafter: calls, tokens that they committed, drafted nodes; tokens and cost by category."""

    calls: int = 0
    tokens: int = 0
    nodes: int = 0
    by_category: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))

    def add(self, category: str, tokens: int, nodes: int, price: float) -> None:
        """A call."""
        self.calls, self.tokens, self.nodes = self.calls + 1, self.tokens + tokens, self.nodes + nodes
        of = self.by_category[category]
        of[0], of[1] = of[0] + tokens, of[1] + 1 + price * nodes

    @property
    def speed(self) -> float:
        """Times the speed of plain decoding."""
        tokens, cost = (sum(part) for part in zip(*self.by_category.values(), strict=True))
        return tokens / cost

    @property
    def slowest(self) -> tuple[float, str]:
        """The speed of the slowest category, and its name."""
        return min((tokens / cost, name) for name, (tokens, cost) in self.by_category.items())


class Unread(RowScores):
    """Scores of no call: a drafter that asks for them cannot be replayed."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> object:
        raise OutpaceError(
            f"a drafter that reads the model's {name} cannot be replayed, accepted are lookups"
        )


def replay(drafter: Drafter, texts: Sequence[tuple[str, Sequence[int], Sequence[int]]], price: float) -> Sums:
    """Draft along texts of (category, prompt, answer)."""
    sums = Sums()
    for category, prompt, answer in texts:
        text, state = [*prompt, *answer], drafter.start(Prompt(prompt))
        root = len(prompt) - 1
        while root < len(text) - 1:
            left = len(text) - 2 - root  # the last token is the model's own choice
            [tree] = drafter.propose([state], [Ask(text[root], root, Sampling(), BUDGET, left)])
            tree = tree.fit(text[root], vocab_size=sys.maxsize, budget=BUDGET, depth=left)
            path, node = list[int](), 0
            while (node := tree.child(node, text[root + len(path) + 1])) > 0:
                path.append(node)
            verdict = Verdict(path, text[root + len(path) + 1], "identical")
            [state] = drafter.observe([state], [Step(tree, Unread(), verdict)])
            if root >= len(prompt):  # the prompt's own call is no price
                sums.add(category, len(path) + 1, tree.num_nodes - 1, price)
            root += len(path) + 1
        drafter.stop(state)
    return sums


def main() -> None:
    """Decode plainly, replay every draft at every price, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=Path, default=BUILTIN)
    parser.add_argument("--limit", type=int, default=None, help="prompts of each category")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--draft", action="append", required=True)
    parser.add_argument("--price", type=float, action="append", help="of a node, in calls without drafts")
    given = parser.parse_args()
    try:
        prompts = read_prompts(given.prompts, limit=given.limit)
        model = outpace.load(given.model)
        options = {"draft": "none", "max_tokens": given.max_tokens}
        answers = [model.generate(one.text, **options) for one in prompts]
        texts = [
            (one.category, model.prompt_ids(one.text), answer.token_ids)
            for one, answer in zip(prompts, answers, strict=True)
            if answer.token_ids
        ]
        if not any(len(answer) > 1 for _, _, answer in texts):
            raise OutpaceError("no answer has two tokens, accepted are --max-tokens of 2 or more")
        rows = []
        for price in given.price or PRICES:
            context = {
                "target": model.target, "tokenizer": model.tokenizer, "beside": model.beside,
                "costs": lambda price=price: straight(price), "memo": lambda name, make, fits=None: make(),
            }  # fmt: skip
            for draft in given.draft:
                found = replay(make_drafter(draft, None, context), texts, price)
                slowest, category = found.slowest
                rows.append(
                    [f"{price:g}", draft, f"{found.speed:.3f}", f"{category} {slowest:.3f}",
                     f"{found.tokens / found.calls:.3f}", f"{found.nodes / found.calls:.2f}"]
                )  # fmt: skip
    except OutpaceError as error:
        sys.exit(f"error: {error}")
    head = ["price of a node", "draft", "to plain", "slowest category", "tokens per call", "drafted per call"]
    print(markdown_table(head, rows, num_text_columns=2))


if __name__ == "__main__":
    main()
