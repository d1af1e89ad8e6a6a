"""`outpace serve`: an OpenAI-compatible server."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any

import typer

from outpace.cli import options, render, streams
from outpace.core.errors import OutpaceError
from outpace.core.options import shown


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="As of generate; may be repeated.", show_default=False
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option("--alias", metavar="NAME", help="What clients call it; one for each model, in order."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Where to listen; 0.0.0.0 for other machines too.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 for any free one.")
    ] = 8080,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            help="A key that clients may use; may be repeated.",
            envvar="OUTPACE_API_KEY",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="A file with a key in every line.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin", metavar="ORIGIN", help="Pages that may ask; * for all; may be repeated."
        ),
    ] = None,
    draft: options.Draft = None,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=1, help="Requests of a model that run side by side.")
    ] = 16,
    places: Annotated[
        int,
        typer.Option("--places", metavar="N", min=1, help="Requests of a model at once, waiting ones too."),
    ] = 64,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="The most seconds that an answer may take.")
    ] = 600.0,
    max_body: Annotated[
        int, typer.Option("--max-body", metavar="BYTES", min=1024, help="The longest body of a request.")
    ] = 4 << 20,
    default: Annotated[
        list[str] | None,
        typer.Option(
            "--default",
            metavar="NAME=VALUE",
            help="An option of requests that do not name it, such as temperature=0; may be repeated.",
        ),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option("--context-length", metavar="N", help="Tokens of a row; the model's if left out."),
    ] = None,
    cache_tokens: Annotated[
        int | None,
        typer.Option(
            "--cache-tokens", metavar="N", help="Tokens that all rows hold together; 4 rows' if left out."
        ),
    ] = None,
    log: Annotated[str, typer.Option("--log", metavar="FORM", help="Lines as text or as json.")] = "text",
    threads: options.Threads = None,
) -> int:
    """Serve models by OpenAI's API."""
    sources = model or [options.DEFAULT_MODEL]
    defaults = dict(map(_default, default or ()))
    keys = [streams.utf8("--api-key", key) for key in api_key or ()]
    if not timeout > 0:
        raise OutpaceError(f"--timeout is {timeout}, accepted are seconds > 0")
    if draft is not None:
        options.method_option(draft, None, "match")
    try:
        from outpace.server import lines, run
        from outpace.server.serving import Settings, check_defaults
    except ImportError as error:
        raise OutpaceError(
            f"a server needs the package {error.name}, accepted is an installation of outpace[server]"
        ) from None
    if log not in lines.FORMATS:
        raise OutpaceError(f"--log is {shown(log)}, accepted are {', '.join(lines.FORMATS)}")
    check_defaults(defaults, "--default")
    if api_key_file is not None:
        from outpace.server.guards import keys_in

        keys += keys_in(options.expanded(api_key_file))
    names = run.names_of(sources, alias or ())
    settings = Settings(draft=draft, rows=rows, places=places, timeout=timeout, defaults=defaults)

    def open_model(source: str) -> Any:
        return render.load_model(
            source, threads=threads, context_length=context_length, cache_tokens=cache_tokens
        )

    with run.bound(host, port) as place:
        house, metrics = run.open_house(sources, names, open_model, settings)
        place.listen()
        address, given = place.getsockname()[:2]
        where = f"http://{_in_url(address)}:{given}"
        if not keys and not ipaddress.ip_address(address).is_loopback:
            render.note("anybody who reaches this address may ask; --api-key lets in those who have one")
        render.note(f"{', '.join(names)} at {where}/v1, described at {where}/docs; Ctrl-C ends it")
        lines.write_lines(log)
        run.run(place, house, metrics, keys=keys, origins=cors_origin or (), most_bytes=max_body)
    return 0


def _default(text: str) -> tuple[str, Any]:
    from outpace.files.json_files import json_value

    name, _, value = streams.utf8("--default", text).partition("=")
    try:
        return name, json_value(value)
    except ValueError:
        raise OutpaceError(
            f"--default is {shown(text)}, accepted are NAME=VALUE with a value of JSON"
        ) from None


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
