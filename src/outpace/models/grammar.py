"""Grammars: what a text may be made of, for `Model.generate` and `Model.stream`.

A grammar is a value: nothing is compiled before a model uses it, and many calls may use one. The package
llguidance, the extra `grammar`, says after every token which others may follow (`grammar_edit.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from outpace.core.errors import GrammarError, OutpaceError
from outpace.core.options import accept, checked, shown

LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as of json.dumps


@dataclass(frozen=True, slots=True)
class Grammar:
    """One of `json`, `json_schema`, `regex`, `lark` and `gbnf`.

    text        the schema, expression or rules. kind: what it is written in.
    whitespace  whether JSON may have spaces and line ends where it likes.
    """

    kind: Literal["json_schema", "regex", "lark", "gbnf"]
    text: str
    whitespace: bool = False

    @classmethod
    @checked
    def json(cls, *, whitespace: bool = False) -> Grammar:
        """Any JSON object. `whitespace`: see `json_schema`."""
        return cls("json_schema", '{"type": "object"}', whitespace)

    @classmethod
    @checked
    def json_schema(cls, schema: Mapping[str, Any] | str, *, whitespace: bool = False) -> Grammar:
        """JSON of a schema, which is a mapping or a JSON text.

        whitespace  spaces and line ends as the model likes. Without, the layout is that of `json.dumps`, and
                    all that the schema fixes is certain: such tokens are drafted for nothing.
        """
        if not isinstance(schema, str):
            accept("schema", schema, Mapping[str, Any] | str)
            try:
                schema = json.dumps(dict(schema), allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise OutpaceError(f"the JSON schema holds what is not JSON: {error}") from None
        return cls("json_schema", schema, whitespace)

    @classmethod
    def regex(cls, text: str) -> Grammar:
        """A text that a regular expression matches as a whole, in the syntax of Rust's crate regex."""
        return cls("regex", accept("regex", text, str))

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """Rules of Lark, in llguidance's dialect; a text is what `start` derives."""
        return cls("lark", accept("lark", text, str))

    @classmethod
    def gbnf(cls, text: str) -> Grammar:
        """Rules of llama.cpp's GBNF; a text is what `root` derives."""
        return cls("gbnf", accept("gbnf", text, str))

    def compiled(self) -> str:
        """As llguidance reads it. Raises a GrammarError for what cannot be translated."""
        matcher = llguidance().LLMatcher
        try:
            if self.kind == "json_schema":
                layout = None if self.whitespace else LAYOUT
                return str(matcher.grammar_from_json_schema(self.text, defaults=layout))
            if self.kind == "regex":
                return str(matcher.grammar_from_regex(self.text))
            rules = self.text
            if self.kind == "gbnf":
                rules = import_module("llguidance.gbnf_to_lark").gbnf_to_lark(rules)
            return str(matcher.grammar_from_lark(rules))
        except Exception as error:  # its converters raise whatever their parsers meet
            raise self.wrong(str(error)) from None

    def wrong(self, reason: str) -> GrammarError:
        """The error of a grammar that cannot be compiled."""
        return GrammarError(f"the {self.name} {shown(self.text)} cannot be read: {reason}")

    @property
    def name(self) -> str:
        """What errors call it."""
        names = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "Lark grammar"}
        return names.get(self.kind, "GBNF grammar")


def check_grammar(grammar: Any) -> Grammar | None:
    """The option of a call, or an OutpaceError."""
    if grammar is None or isinstance(grammar, Grammar):
        return grammar
    raise OutpaceError(
        f"grammar is {shown(grammar)}, accepted are None and outpace.Grammar.json(), json_schema(...), "
        "regex(...), lark(...) and gbnf(...)"
    )


def llguidance() -> ModuleType:
    """The package, or an OutpaceError that says how to get it."""
    try:
        return import_module("llguidance")
    except ImportError as error:
        raise OutpaceError(
            f"a grammar needs the package llguidance (pip install 'outpace[grammar]'): {error}"
        ) from None
