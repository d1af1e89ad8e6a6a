"""POST /v1/embeddings: https://platform.openai.com/docs/api-reference/embeddings"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi import Request as Http
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from pydantic import field_validator

from outpace.models.embedding import Pooling, embedding
from outpace.server.bodies import Body, Many, Text, Token, few_texts, texts_of
from outpace.server.exchange import GONE, unless_gone
from outpace.server.reached import house_of
from outpace.server.serving import Served

ROUTES = APIRouter(tags=["texts"])


class EmbeddingBody(Body):
    """One text or several, as texts or as token ids."""

    input: Text | Many[Text] | Many[Token] | Many[Many[Token]]
    model: Text | None = None
    encoding_format: Literal["float", "base64"] | None = None
    pooling: Pooling | None = None
    user: str | None = None

    _few = field_validator("input", mode="before")(few_texts)


@ROUTES.post("/v1/embeddings")
async def embeddings(body: EmbeddingBody, http: Http) -> Response:
    """A vector of length 1 for every text: the mean of the model's hidden states, or the last of them."""
    served = house_of(http).of(body.model)
    made = await unless_gone(http, _vectors(served, texts_of(body.input, "input"), body.pooling or "mean"))
    if made is None:
        return Response(status_code=GONE)
    data = []
    for number, (vector, _) in enumerate(made):
        written: Any = vector.tolist()
        if body.encoding_format == "base64":
            written = base64.b64encode(vector.astype("<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": number, "embedding": written})
    count = sum(size for _, size in made)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "model": served.name, "data": data, "usage": usage})


async def _vectors(
    served: Served, texts: Sequence[str | list[int]], pooling: Pooling
) -> list[tuple[NDArray[np.float32], int]]:
    """The vector of every text, and how many tokens the text has."""

    def make(text: str | list[int]) -> tuple[NDArray[np.float32], int]:
        tokens = served.tokens_of(text, add_special=True) if isinstance(text, str) else text
        served.check_tokens(tokens, "input")
        return embedding(served.model.target, tokens, pooling=pooling), len(tokens)

    return [await asyncio.to_thread(make, text) for text in texts]
