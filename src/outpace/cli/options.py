"""Options that several commands share, with the one text that each has in every `--help`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli import streams
from outpace.core.errors import OutpaceError
from outpace.core.options import shown

if TYPE_CHECKING:
    from outpace.models.method import Method
    from outpace.models.text import Model as Loaded

DEFAULT_MODEL = "smollm2-135m-instruct"

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Short name, .gguf file, Hugging Face folder, hub id, or NAME:option=value of a package.",
    ),
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="The system message of the model's chat template."),
]
Tools = Annotated[
    Path | None,
    typer.Option(
        "--tools", metavar="FILE", help="A JSON list of functions that the model may call, for its template."
    ),
]
TemplateOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--template-option",
        metavar="NAME=VALUE",
        help="A variable of the chat template, such as enable_thinking=false; may be repeated.",
    ),
]
ParseSpecial = Annotated[
    bool,
    typer.Option(
        "--parse-special", help="Read special tokens written in the prompt, instead of taking them as text."
    ),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", metavar="N", help="The most tokens to generate.")]
Temperature = Annotated[
    float, typer.Option("--temperature", metavar="T", help="0 takes the likeliest token.")
]
TopK = Annotated[
    int, typer.Option("--top-k", metavar="K", help="Choose among the K likeliest tokens; 0 for all.")
]
TopP = Annotated[
    float, typer.Option("--top-p", metavar="P", help="Choose among the likeliest tokens that make up mass P.")
]
MinP = Annotated[
    float,
    typer.Option(
        "--min-p", metavar="P", help="Leave out tokens below P times the likeliest one's probability."
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="S", help="Same seed, same text.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="Threads to compute with; the physical cores if left out."),
]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        metavar="DRAFT",
        help="How to draft: NAME:option=value,... such as ngram:max_n=3,length=6; none for plain decoding; "
        "auto, what is fastest for the model as far as is known, if left out (ngram with --tree or --rule).",
    ),
]
Drafts = Annotated[
    list[str] | None,
    typer.Option(
        "--draft",
        metavar="METHOD",
        help="What to measure: DRAFT, or 'DRAFT tree=TREE rule=RULE'; may be repeated; auto, if left out. "
        "none always runs.",
    ),
]
Tree = Annotated[
    str | None,
    typer.Option(
        "--tree", metavar="TREE", help="The shape of a model-based draft; the draft's own if left out."
    ),
]
Rule = Annotated[
    str, typer.Option("--rule", metavar="RULE", help="What to accept; match gives plain decoding's tokens.")
]


def group(text: str) -> typer.Typer:
    """Commands under one name, which says by itself what they are."""
    app = typer.Typer(help=text, rich_markup_mode=None)

    @app.callback(invoke_without_command=True)
    def overview(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            print(context.get_help())

    return app


def sampling_options(
    temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> Mapping[str, Any]:
    """The sampling options as keyword arguments of the library; raises OutpaceError for values out of range.

    Checked here, before a model is loaded, so that a slip costs no waiting.
    """
    from outpace.core.sampling import Sampling

    Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    return {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}


def template_options(
    system: str | None, tools: Path | None, variables: list[str] | None, parse_special: bool
) -> dict[str, Any]:
    """What a prompt is made of besides its text, as keyword arguments of the library.

    The value of a variable is JSON, or the text that it is. Raises OutpaceError.
    """
    from outpace.files.json_files import json_list, json_value

    named: dict[str, Any] = {}
    for one in variables or ():
        name, equals, text = streams.utf8("--template-option", one).partition("=")
        if not equals or not name.isidentifier() or name in named:
            twice = " once" if name in named else ""
            raise OutpaceError(f"--template-option is {shown(one)}, accepted are NAME=VALUE{twice}")
        try:
            named[name] = json_value(text)
        except ValueError:
            named[name] = text
    made: dict[str, Any] = {"system": None if system is None else streams.utf8("--system", system)}
    if tools is not None:
        made["tools"] = json_list(expanded(tools))
    if named:
        made["chat_template_kwargs"] = named
    if parse_special:
        made["parse_special"] = True
    return made


def expanded(path: str | Path) -> Path:
    """A path with the home folder in place of ~; of a user who has none, the path as it is."""
    return Path(os.path.expanduser(path))


def method_option(text: str | None, tree: str | None, rule: str) -> Method:
    """The method of `--draft`, `--tree` and `--rule`; what is wrong with it also costs no waiting.

    Without a text see `with_own_draft`, once the model is loaded.
    """
    from outpace.models.method import Method

    method = Method.parse(text or "ngram", tree=tree, rule=rule)
    method.check()
    return method


def with_own_draft(method: Method, model: Loaded, text: str | None) -> Method:
    """The method with the model's own draft if none was named, as the library has it: for `match` alone."""
    if text or method.rule != "match" or method.tree is not None:
        return method
    return replace(method, draft=model.own_draft)
