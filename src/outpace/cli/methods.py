"""`outpace methods`: the drafters, trees and rules that a spec can name, those of other packages included."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli import render
from outpace.core.errors import OutpaceError
from outpace.core.registry import value_text
from outpace.core.traits import Traits

if TYPE_CHECKING:
    from outpace.core.registry import Registry

Entry = dict[str, Any]

CITATION = re.compile(r"arXiv:\d{4}\.\d{4,5}|(?:doi:|https?://|github\.com/)[^\s()<>,;]+", re.IGNORECASE)

# What a constructor may ask for that not every model has, or that takes long to come by.
NEEDS = {
    "open_model": "a model",
    "costs": "call costs",
    "memo": "a table kept on disk",
    "context": "other drafts",
}
ANY_TARGET = ("Target", "_empty")

COLUMNS = {
    "drafter": ("what", "takes_tree", "needs", "draws", "paper", "options"),
    "tree": ("what", "needs", "paper", "options"),
    "rule": ("what", "exactness", "draw", "paper", "options"),
}
TITLES = {"what": "what it is", "takes_tree": "tree"}


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One drafter, tree or rule, in full.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array and nothing else.")] = False,
) -> None:
    """List drafters, trees and rules, or show one in full."""
    entries, broken = _entries(name)
    if as_json:
        print(json.dumps(entries))
    elif name is None:
        tables = [
            _table(kind, columns, [entry for entry in entries if entry["kind"] == kind])
            for kind, columns in COLUMNS.items()
        ]
        print("\n\n".join(tables))
    else:
        print("\n\n".join(_in_full(entry) for entry in entries))
    for problem in broken:
        render.print_error(problem)


def describe(registry: Registry, name: str) -> Entry:
    """What is known of a name without making anything. An OutpaceError if it cannot be imported."""
    factory = registry.factory(name)
    parameters = inspect.signature(factory).parameters
    options = registry.options(name)
    doc = inspect.cleandoc(getattr(inspect.getmodule(factory), "__doc__", None) or "")
    cited = CITATION.search(doc)
    entry: Entry = {
        "kind": registry.kind,
        "name": name,
        "what": doc.partition("\n")[0],
        "paper": None if cited is None else cited[0].rstrip("."),
        "options": {key: _option(parameter) for key, parameter in options.items()},
    }
    if registry.kind == "rule":
        entry |= {key: _declared(factory, key) for key in ("exactness", "draw", "needs_law")}
    else:
        entry["needs"] = _needs(parameters, options)
    if registry.kind == "drafter":
        entry["takes_tree"] = "tree" in parameters
        # Whether a draft in the shape of a tree has a law may depend on what it is made of.
        traits = getattr(factory, "traits", Traits())
        draws = sorted(traits.draws) if isinstance(traits, Traits) else None
        entry["draws"] = draws or ("by option" if entry["takes_tree"] else None)
    return entry | {"doc": doc}


def _entries(wanted: str | None) -> tuple[list[Entry], list[str]]:
    """The entries of all names or of one, and a line for each that is broken."""
    from outpace.drafters import DRAFTERS
    from outpace.rules import RULES
    from outpace.trees import TREES

    entries, broken, names = [], [], []
    for registry in (DRAFTERS, TREES, RULES):
        names += registry.names()
        for name in registry.names():
            if wanted in (None, name):
                try:
                    entries.append(describe(registry, name))
                except OutpaceError as error:
                    broken.append(str(error))
    if wanted is not None and not entries:
        raise OutpaceError(
            broken[0] if broken else f"unknown method {wanted!r}, accepted are {', '.join(names)}"
        )
    return entries, broken


def _option(parameter: inspect.Parameter) -> dict[str, Any]:
    kind = inspect.formatannotation(parameter.annotation)
    return (
        {"type": kind}
        if parameter.default is parameter.empty
        else {"type": kind, "default": parameter.default}
    )


def _needs(
    parameters: Mapping[str, inspect.Parameter], options: Mapping[str, inspect.Parameter]
) -> list[str]:
    """Options without a default, and what else a constructor asks for beside any target and its tokenizer."""
    needs = [key for key, parameter in options.items() if parameter.default is parameter.empty]
    needs += [NEEDS[key] for key in parameters if key in NEEDS and not (key == "open_model" and needs)]
    if "target" in parameters:
        annotation = parameters["target"].annotation
        kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        needs += [] if kind in ANY_TARGET else [f"a {kind} target"]
    return needs


def _declared(factory: Callable[..., Any], name: str) -> Any:
    """A declaration of a class, as JSON has it; "by option" where it is made for each object."""
    value = getattr(factory, name, None)
    if isinstance(value, property) or inspect.ismemberdescriptor(value):
        return "by option"
    return sorted(value) if isinstance(value, frozenset) else value


def _cell(entry: Entry, column: str) -> str:
    value = entry[column]
    if column == "options":
        value = [f"{key}={_default(option)}" for key, option in value.items()]
    if column == "draw" and entry["needs_law"]:
        value = f"{value}, law needed"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return text or "-"


def _default(option: Mapping[str, Any]) -> str:
    if "default" not in option:
        return "..."
    return value_text(option["default"]) or "''"


def _table(kind: str, columns: Sequence[str], entries: Sequence[Entry]) -> str:
    """On a terminal wrapped to its width, else one line for each entry."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    table.add_column(kind, no_wrap=True)
    for column in columns:
        table.add_column(TITLES.get(column, column), no_wrap=column == "exactness", overflow="fold")
    for entry in entries:
        table.add_row(entry["name"], *(_cell(entry, column) for column in columns))
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _in_full(entry: Entry) -> str:
    from outpace.bench.report import markdown_table

    facts = [
        (TITLES.get(key, key), _cell(entry, key))
        for key in COLUMNS[entry["kind"]]
        if key not in ("what", "options")
    ]
    width = max(len(fact) for fact, _ in facts)
    blocks = [
        f"{entry['kind']} {entry['name']}",
        "\n".join(f"{fact.ljust(width)}  {value}" for fact, value in facts),
    ]
    if entry["options"]:
        rows = [(key, option["type"], _default(option)) for key, option in entry["options"].items()]
        blocks.append(markdown_table(("option", "type", "default"), rows, num_text_columns=3))
    return "\n\n".join([*blocks, entry["doc"]])
