"""A grammar's edits where the library gives up."""

from __future__ import annotations

import pytest

from outpace.core.errors import GrammarError, OutpaceError
from outpace.models.grammar import Grammar
from outpace.models.grammar_edit import MOST_FORCED, GrammarEdit
from outpace.models.grammar_tokens import Grammars
from tests.byte_vocabulary import byte_tokenizer

END = 256


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


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    pytest.importorskip("llguidance")
    return Grammars(byte_tokenizer(["<end>"]), END + 1)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.regex("(a{1000}){20}"),
        Grammar.lark('start: "ab"{9000}'),
        Grammar.json_schema({"const": "a" * 9000}),
    ],
    ids=lambda grammar: grammar.kind,
)
def test_what_forces_too_much_is_refused_before_any_step(grammars: Grammars, grammar: Grammar) -> None:
    """Every mask of a text would walk along all of it."""
    with pytest.raises(GrammarError, match=rf"cannot be read: it forces \d+ bytes .* {MOST_FORCED} at most"):
        grammars.edit(grammar, ends=[END], first=0)
    grammars.edit(Grammar.regex("(a{1000}){8}"), ends=[END], first=0)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar.regex("[bc](a{1000}){100}"), r"it forces \d+ bytes at once, accepted"),
        (Grammar.regex("[bc](a{1000}){9}"), "it forces 9000 bytes at once, accepted are 8192 at most"),
        (Grammar.lark('start: /[bc]/ "ab"{9000}'), "it forces 18000 bytes at once, accepted"),
    ],
)
def test_what_comes_to_it_later_is_told_of_then(grammars: Grammars, grammar: Grammar, message: str) -> None:
    edit = grammars.edit(grammar, ends=[END], first=0)
    text = list[int]()
    assert edit(text, ()) is not None and edit.forced(text, ()) == []
    text += byte_tokenizer([]).encode("b", add_special_tokens=False)
    for asked in (edit, edit.forced):
        with pytest.raises(GrammarError, match=message):
            asked(text, ())
