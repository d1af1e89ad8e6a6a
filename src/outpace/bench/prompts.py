"""Prompts to measure on: a Spec-Bench JSONL file, a plain text file, or the small set in the package.

A JSONL line is an object with `category` and `turns` (and `question_id` where it has one); the first turn is
the prompt. A text file holds one prompt a line.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.files.json_files import json_value
from outpace.files.regular import read_text

BUILTIN = Path(__file__).with_name("prompts.jsonl")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its id within the file, its category and its text."""

    prompt_id: str
    category: str
    text: str

    @property
    def digest(self) -> str:
        """Sixteen hex digits that name the text itself: two files may use the same ids."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def read_prompts(path: Path, *, limit: int | None = None) -> list[Prompt]:
    """Read a prompt file, at most `limit` prompts of each category, in the order of the file.

    Raises OutpaceError, with file and line, for a file that cannot be read or holds anything else.
    """
    lines = read_text(path, "the prompts").split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if path.suffix in (".jsonl", ".json"):
        prompts = [_from_json(line, number, path) for number, line in numbered]
    else:
        prompts = [Prompt(str(number), "text", line.strip()) for number, line in numbered]
    if not prompts:
        raise OutpaceError(
            f"{path} holds no prompts: one JSON object with category and turns, or one prompt, a line"
        )
    return limit_per_category(prompts, limit)


def limit_per_category(prompts: Iterable[Prompt], limit: int | None) -> list[Prompt]:
    """The first `limit` prompts of each category; all of them for None."""
    if limit is None:
        return list(prompts)
    if limit < 1:
        raise OutpaceError(f"limit must be at least 1, not {limit}")
    seen: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        seen[prompt.category] += 1
        if seen[prompt.category] <= limit:
            kept.append(prompt)
    return kept


def _from_json(line: str, number: int, path: Path) -> Prompt:
    expected = "an object with category (text) and turns (a list of texts)"
    try:
        item: Any = json_value(line)
    except ValueError as error:
        raise OutpaceError(f"{path}, line {number}: not JSON; expected {expected}") from error
    if not isinstance(item, dict):
        raise OutpaceError(f"{path}, line {number}: expected {expected}")
    category, turns = item.get("category"), item.get("turns")
    if (
        not isinstance(category, str)
        or not isinstance(turns, list)
        or not turns
        or not isinstance(turns[0], str)
    ):
        raise OutpaceError(f"{path}, line {number}: expected {expected}")
    return Prompt(str(item.get("question_id", number)), category, turns[0])
