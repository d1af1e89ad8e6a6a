"""What the server says of itself and of its models, and text to tokens and back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter
from fastapi import Request as Http
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from outpace.server.bodies import DetokenizeBody, TokenizeBody
from outpace.server.reached import house_of, metrics_of

ROUTES = APIRouter(tags=["server"])
STARTED = int(time.time())


@ROUTES.get("/health")
@ROUTES.get("/v1/health")
async def health(http: Http) -> Response:
    """Whether the server takes requests: 200, or 503."""
    is_open = house_of(http).is_open
    return JSONResponse({"status": "ok" if is_open else "closing"}, 200 if is_open else 503)


@ROUTES.get("/metrics")
async def metrics(http: Http) -> Response:
    """Counters for Prometheus."""
    return Response(metrics_of(http).text(), media_type=CONTENT_TYPE_LATEST)


@ROUTES.get("/v1/models")
async def models(http: Http) -> dict[str, Any]:
    """The models by name."""
    return {"object": "list", "data": [_model(http, name) for name in house_of(http).served]}


@ROUTES.get("/v1/models/{name:path}")
async def model(name: str, http: Http) -> dict[str, Any]:
    """One of them."""
    return _model(http, house_of(http).of(name).name)


@ROUTES.get("/props")
async def props(http: Http, model: str | None = None) -> dict[str, Any]:
    """What a model is and how it is served."""
    served = house_of(http).of(model)
    template = getattr(served.model.chat, "source", None)
    return {
        "model": served.name,
        "n_ctx": served.model.target.context_length,
        "vocab_size": served.model.target.vocab_size,
        "threads": served.model.num_threads,
        "draft": served.draft,
        "numerics": served.model.target.traits.numerics,
        "places": served.settings.places,
        "chat_template": template,
    }


@ROUTES.post("/tokenize")
async def tokenize(body: TokenizeBody, http: Http) -> Response:
    """The token ids of a text."""
    served = house_of(http).of(body.model)
    special = {"add_special": body.add_special, "parse_special": body.parse_special}
    tokens = await asyncio.to_thread(served.tokens_of, body.content, **special)
    length = served.model.target.context_length
    return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": length})


@ROUTES.post("/detokenize")
async def detokenize(body: DetokenizeBody, http: Http) -> dict[str, Any]:
    """The text of token ids."""
    served = house_of(http).of(body.model)
    served.check_tokens(body.tokens, "tokens")
    return {"content": await asyncio.to_thread(served.model.tokenizer.decode, body.tokens)}


def _model(http: Http, name: str) -> dict[str, Any]:
    served = house_of(http).of(name)
    length = served.model.target.context_length
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "outpace", "max_model_len": length}
