"""Options of the command line that say what a text may be made of, as keyword arguments of the library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli import options, streams
from outpace.core.errors import OutpaceError
from outpace.core.options import shown

if TYPE_CHECKING:
    from outpace.models.grammar import Grammar

JsonObject = Annotated[bool, typer.Option("--json-object", help="The text is a JSON object.")]
JsonSchema = Annotated[
    Path | None,
    typer.Option("--json-schema", metavar="FILE", help="The text is JSON of the schema in this file."),
]
Regex = Annotated[
    str | None, typer.Option("--regex", metavar="TEXT", help="A regular expression matches the whole text.")
]
GrammarFile = Annotated[
    Path | None,
    typer.Option("--grammar", metavar="FILE", help="The text follows the rules of a .lark or .gbnf file."),
]


def grammar_option(
    is_json: bool, schema: Path | None, regex: str | None, rules: Path | None
) -> dict[str, Any]:
    """The grammar, if one is given. Raises OutpaceError for a bad file, for two, and without llguidance.

    All that can be told before a model is loaded.
    """
    given = {"--json-object": is_json or None, "--json-schema": schema, "--regex": regex, "--grammar": rules}
    named = [name for name, value in given.items() if value is not None]
    if not named:
        return {}
    if len(named) > 1:
        raise OutpaceError(f"{' and '.join(named)} are given, accepted is one of {', '.join(given)}")
    grammar = _grammar(schema, regex, rules)
    grammar.compiled()
    return {"grammar": grammar}


def _grammar(schema: Path | None, regex: str | None, rules: Path | None) -> Grammar:
    from outpace.files.json_files import json_file
    from outpace.files.regular import read_text
    from outpace.models.grammar import Grammar

    if schema is not None:
        return Grammar.json_schema(json_file(options.expanded(schema)))
    if regex is not None:
        return Grammar.regex(streams.utf8("--regex", regex))
    if rules is None:
        return Grammar.json()
    makers = {".lark": Grammar.lark, ".gbnf": Grammar.gbnf}
    if rules.suffix not in makers:
        raise OutpaceError(f"--grammar is {shown(str(rules))}, accepted are files named .lark and .gbnf")
    return makers[rules.suffix](read_text(options.expanded(rules), "a grammar"))
