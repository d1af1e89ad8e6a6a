"""What a family of chat templates says about calls: how they are read, and the grammar that forces them."""

from __future__ import annotations

import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from outpace.server.tools.lark import Lark
from outpace.server.tools.reader import THINK, THOUGHT, Reader

Schemas = Mapping[str, Mapping[str, Any]]
"""The JSON schema of the arguments of each function, by its name."""
_LETTERS = string.ascii_letters + string.digits


class Format(ABC):
    """One way to write calls. Formats have no state; a reader is of one text.

    - `name`: of the family.
    - `markers`: texts that a vocabulary may have as special tokens, and that the reader must see.
    - `reader`: what reads a text: called with schemas and the options of Reader.
    """

    name: ClassVar[str]
    markers: ClassVar[tuple[str, ...]] = ()
    reader: ClassVar[type[Reader]]

    @abstractmethod
    def calls(self, lark: Lark, schemas: Schemas, *, parallel: bool) -> str:
        """An expression for one call; with `parallel`, where the family has that, for one or more."""

    def grammar(
        self,
        schemas: Schemas,
        *,
        special: Mapping[str, int],
        parallel: bool = True,
        may_think: bool = False,
        thinks: bool = False,
    ) -> str:
        """A Lark grammar for texts that call these functions and say nothing else.

        `special` has the ids of those markers that are special tokens. `may_think`: a <think> block may come
        first. `thinks`: the prompt has opened one, so its end has to come first.
        """
        lark = Lark(special)
        calls = self.calls(lark, schemas, parallel=parallel)
        if thinks or may_think:
            thoughts = lark.up_to(THOUGHT)
            space = lark.rule("/[ \\n]*/")
            first = f"{thoughts} {space}" if thinks else f"({lark.literal(THINK)} {thoughts} {space})?"
            return lark.text(f"{first} {calls}")
        return lark.text(calls)

    def new_id(self) -> str:
        """A call's id, as OpenAI writes them."""
        return "call_" + letters(24)


def letters(number: int) -> str:
    """So many letters and digits that nobody can guess."""
    return "".join(secrets.choice(_LETTERS) for _ in range(number))


def json_calls(lark: Lark, schemas: Schemas, *, arguments: str = "arguments") -> str:
    """A rule for one call as a JSON object, its members in the order and with the spaces of templates."""
    options = [
        " ".join((lark.literal(f'"{name}", "{arguments}": '), lark.json(schema)))
        for name, schema in schemas.items()
    ]
    return lark.rule(" ".join((lark.literal('{"name": '), lark.one_of(options), lark.literal("}"))))
