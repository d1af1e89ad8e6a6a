"""The app: routes, guards and errors put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from outpace.server import chat, completions, embeddings, errors, info, pages, responses
from outpace.server.guards import Bounded, Keys
from outpace.server.metrics import Metrics
from outpace.server.serving import House

MOST_BYTES = 4 << 20


def create_app(
    house: House,
    metrics: Metrics,
    *,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    most_bytes: int = MOST_BYTES,
) -> FastAPI:
    """An ASGI app over models that are open, with its guards (see `guard`); it closes them when it ends."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(house.close)

    app = FastAPI(
        title="Outpace",
        summary="An OpenAI-compatible server. Drafts change the speed of an answer, never its tokens.",
        lifespan=life,
    )
    app.state.house, app.state.metrics = house, metrics
    for part in (chat, responses, completions, embeddings, info, pages):
        app.include_router(part.ROUTES)
    errors.install(app)
    guard(app, keys=keys, origins=origins, most_bytes=most_bytes)
    return app


def guard(app: FastAPI, *, keys: Sequence[str], origins: Sequence[str], most_bytes: int) -> None:
    """Put before an app what looks at requests from outside.

    keys        API keys, one of which a request must have; none: anybody may ask.
    origins     web pages of these origins may ask too; "*" for all.
    most_bytes  of a body.
    """
    app.add_middleware(Bounded, most=most_bytes)
    app.add_middleware(Keys, keys=keys)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"]
        )
