"""From names of models to a server that listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from outpace.core.errors import OutpaceError
from outpace.models.text import Model
from outpace.server.app import create_app
from outpace.server.connections import STALLED_S, connections
from outpace.server.metrics import Metrics
from outpace.server.serving import House, Served, Settings

GRACE_S = 30  # that answers under way have when the server is told to end
Open = Callable[[str], Model]


def names_of(sources: Sequence[str], aliases: Sequence[str] = ()) -> list[str]:
    """The names that models are served by: aliases, else what a file is called. Raises an OutpaceError."""
    if len(aliases) > len(sources):
        raise OutpaceError(f"{len(aliases)} aliases for {len(sources)} models, accepted is one for each")
    shown = [Path(source).stem if source.endswith(".gguf") else Path(source).name for source in sources]
    names = [*aliases, *shown[len(aliases) :]]
    if twice := [name for name in names if names.count(name) > 1]:
        raise OutpaceError(f"two models have the name {twice[0]}, accepted are aliases that differ")
    return names


def bound(host: str, port: int) -> socket.socket:
    """A socket of this address: bound before a model is loaded, so that a port in use costs no waiting."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError:
            made.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutpaceError(f"cannot listen at {host}:{port}: {reason}") from None
    return made


def open_house(
    sources: Sequence[str], names: Sequence[str], open_model: Open, settings: Settings
) -> tuple[House, Metrics]:
    """The models, open and at work."""
    # Long texts are read in threads already; more of them in each would take the model's processors.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    metrics = Metrics()
    served = [
        Served(name, open_model(source), settings, metrics)
        for source, name in zip(sources, names, strict=True)
    ]
    return House(served), metrics


def server_of(
    house: House, metrics: Metrics, *, grace_s: int = GRACE_S, stalled_s: float = STALLED_S, **options: Any
) -> uvicorn.Server:
    """A server that has not begun. stalled_s: see `connections`; `options` are those of `create_app`."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(house, metrics, **options),
            http=connections(metrics.stalled, seconds=stalled_s),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=grace_s,
        )
    )


def run(place: socket.socket, house: House, metrics: Metrics, **options: Any) -> None:
    """Serve until a signal says to end. `options` are those of `create_app`."""
    server_of(house, metrics, **options).run(sockets=[place])
