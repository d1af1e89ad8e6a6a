"""The commands of `outpace`, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from outpace.cli import (
    bench,
    chat,
    datastore,
    diffusion,
    generate,
    heads,
    methods,
    models,
    own_text,
    prepare,
    profile,
    serve,
    train,
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.add_typer(models.app, name="models")
datastore.app.command("write")(own_text.write)
datastore.app.command("count")(own_text.count)
app.add_typer(datastore.app, name="datastore")
app.command("prepare")(prepare.prepare)
app.add_typer(train.app, name="train")
app.add_typer(heads.app, name="heads")
app.add_typer(diffusion.app, name="diffusion")
app.command("methods")(methods.methods)
app.command("profile")(profile.profile)
app.command("bench")(bench.bench)


@app.callback(invoke_without_command=True)
def overview(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Same seed, same text: drafts only change the speed."""
    if version:
        from importlib.metadata import version as version_of

        print(version_of("outpace"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
