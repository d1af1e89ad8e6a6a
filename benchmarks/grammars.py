"""JSON of a schema without drafts, with drafts, and with the tokens that the schema forces as drafts.

Every round asks the same questions in turn in each way. The texts must be those of plain decoding with the
same grammar. A speed counts the tokens after the first; masks are all the time that a grammar takes.

    python -m benchmarks.grammars --draft mix
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import outpace
from benchmarks.side_by_side import model_file
from outpace.bench.report import markdown_table
from outpace.core.edits import AnyEdit
from outpace.core.errors import OutpaceError
from outpace.drafters.forced import Forced
from outpace.drafters.none import NoDraft
from outpace.engine.generate import result_of
from outpace.files import catalog
from outpace.models.grammar_edit import GrammarEdit
from outpace.models.text import Model

WORD, COUNT = {"type": "string", "maxLength": 24}, {"type": "integer", "minimum": 0, "maximum": 9999}


def thing(**properties: Any) -> dict[str, Any]:
    """The schema of an object that has all of these, and nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


PLACE = thing(street=WORD, city=WORD, country=WORD)
BOOK = thing(title=WORD, author=WORD)
MEAL = thing(dish=WORD, calories=COUNT, vegetarian={"type": "boolean"})
CALL = thing(city=WORD, unit={"enum": ["celsius", "kelvin"]})
QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    (
        "Describe a person who works at a harbour.",
        thing(name=WORD, age=COUNT, profession=WORD, address=PLACE),
    ),
    (
        "List three books about the sea.",
        thing(books={"type": "array", "minItems": 3, "maxItems": 3, "items": BOOK}),
    ),
    (
        "Is the review 'slow, but worth the wait' positive?",
        thing(sentiment={"enum": ["positive", "negative", "mixed"]}, confidence=COUNT, reason=WORD),
    ),
    (
        "What is the weather in Oslo? Call a function.",
        thing(function={"const": "get_weather"}, arguments=CALL),
    ),
    (
        "Plan two meals for Monday.",
        thing(day=WORD, meals={"type": "array", "minItems": 2, "maxItems": 2, "items": MEAL}),
    ),
]


class Watched:
    """A grammar's edit, and how long it has taken. It does not say what it forces."""

    def __init__(self, edit: GrammarEdit) -> None:
        self.edit = edit
        self.seconds = 0.0

    def __call__(self, text: Sequence[int], path: Sequence[int]) -> AnyEdit | None:
        began = perf_counter()
        found = self.edit(text, path)
        self.seconds += perf_counter() - began
        return found


class Forcing(Watched):
    """One that says so."""

    def forced(self, text: Sequence[int], path: Sequence[int]) -> Sequence[int]:
        began = perf_counter()
        found = self.edit.forced(text, path)
        self.seconds += perf_counter() - began
        return found


@dataclass
class Sum:
    """Of the answers of one way in one round."""

    tokens: int = 0
    calls: int = 0
    decoding_s: float = 0.0
    wall_s: float = 0.0
    masks_s: float = 0.0
    texts: list[str] = field(default_factory=list)


def ask(model: Model, draft: Any, kind: type[Watched], max_tokens: int) -> Sum:
    """All questions, one after another."""
    found = Sum()
    for question, schema in QUESTIONS:
        given = {"grammar": outpace.Grammar.json_schema(schema), "max_tokens": max_tokens}
        request, text = model._request(question, given, streams=False)
        assert isinstance(request.edit, GrammarEdit)
        edit = kind(request.edit)
        parts = model._drafting({"draft": draft})
        (answer,) = result_of(model._steps([replace(request, edit=edit)], [text], parts))
        if answer.finish_reason == "stop":
            json.loads(answer.text)
        stats = answer.stats
        found.tokens += len(answer.token_ids) - stats.first_tokens
        found.calls += stats.target_calls
        found.decoding_s += stats.wall_s - stats.time_to_first_token_s
        found.wall_s += stats.wall_s
        found.masks_s += edit.seconds
        found.texts.append(answer.text)
    return found


def measure(model: Model, drafts: Sequence[str], *, max_tokens: int, rounds: int) -> dict[str, list[Sum]]:
    """By way, its rounds. Raises an OutpaceError for a text that drafts have changed."""
    found: dict[str, list[Sum]] = {}
    for _ in range(rounds):
        ways: dict[str, tuple[Any, type[Watched]]] = {
            "plain": ("none", Watched),
            "forced tokens": (Forced(NoDraft()), Forcing),
        }
        for draft in drafts:
            ways[draft] = model.new_drafter(draft), Watched
            ways[f"{draft}, forced tokens"] = model.new_drafter(draft), Forcing
        for name, (drafter, kind) in ways.items():
            one = ask(model, drafter, kind, max_tokens)
            found.setdefault(name, []).append(one)
            if one.texts != found["plain"][0].texts:
                raise OutpaceError(f"{name} says something else than plain decoding")
    return found


def table(found: dict[str, list[Sum]]) -> str:
    """Medians over the rounds: of speeds, of their ratios to plain in the same round, of the masks' share."""
    rows = []
    for name, rounds in found.items():
        speeds = [one.tokens / one.decoding_s for one in rounds]
        plain = [one.tokens / one.decoding_s for one in found["plain"]]
        ratio = statistics.median(speed / other for speed, other in zip(speeds, plain, strict=True))
        share = statistics.median(one.masks_s / one.wall_s for one in rounds)
        calls = rounds[0].tokens / max(1, rounds[0].calls)
        rows.append(
            (name, f"{statistics.median(speeds):.1f}", f"{ratio:.2f}", f"{calls:.2f}", f"{share:.1%}")
        )
    head = ("draft", "tokens/s", "speed to plain", "tokens per call", "time in masks")
    return markdown_table(head, rows, num_text_columns=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=catalog.DEFAULT, help="a .gguf file or a short name of one")
    parser.add_argument("--draft", action="append", help="what drafts, besides plain; mix if left out")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.rounds < 1 or args.max_tokens < 2:
        parser.error("--rounds is at least 1, --max-tokens at least 2")
    try:
        model = outpace.load(model_file(args.model), threads=args.threads)
        found = measure(model, args.draft or ["mix"], max_tokens=args.max_tokens, rounds=args.rounds)
    except OutpaceError as error:
        raise SystemExit(f"error: {error}") from error
    print(table(found))


if __name__ == "__main__":
    main()
