"""What a reader of files is to the fuzzer, and the words that it has models and tokenizers read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.mutations import Files

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is 12 the number?\n  <|im_start|>"},
]
TEXT = "The harbour, in the 12th  hour <|im_end|> é \n\tthing"


@dataclass(frozen=True)
class Reader:
    """`seeds` makes sound files, `read` reads a folder of them; `needs` names packages of extras."""

    seeds: Callable[[], list[Files]]
    read: Callable[[Path], object]
    needs: tuple[str, ...] = ()

    def runs_here(self) -> bool:
        return all(find_spec(name) is not None for name in self.needs)
