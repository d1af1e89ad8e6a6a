"""A grammar's edits where the library gives up."""

from __future__ import annotations

import pytest

from outpace.core.errors import OutpaceError
from outpace.models.grammar_edit import GrammarEdit


def test_a_limit_of_the_library_is_told_of() -> None:
    class Spent:
        def deep_copy(self) -> Spent:
            return self

        def try_consume_tokens(self, tokens: list[int]) -> int:
            return 0

        def is_error(self) -> bool:
            return True

        def get_error(self) -> str:
            return "too many expressions"

    edit = GrammarEdit(Spent(), vocab_size=8, ends=[0], first=0, other=None)
    with pytest.raises(OutpaceError, match="cannot be followed: too many expressions"):
        edit([1], [])
