"""What clients read: the objects of OpenAI's API, with `timings` as llama-server writes them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from outpace.engine.logprobs import TokenLogprob
from outpace.engine.request import Generation
from outpace.files.tokenizer import Tokenizer


def head(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """The fields that every object of an answer has."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def usage(results: Sequence[Generation], *, per_prompt: int | None = None) -> dict[str, Any]:
    """The tokens of all answers; a prompt that so many of them share, None for all, counts once."""
    firsts = results[:: per_prompt or len(results)]
    prompt = sum(result.prompt_tokens for result in firsts)
    completion = sum(len(result.token_ids) for result in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(result.stats.cached_tokens for result in firsts)},
    }


def timings(result: Generation) -> dict[str, Any]:
    """How fast it was, and what drafts brought."""
    stats = result.stats
    read = result.prompt_tokens - stats.cached_tokens
    later = len(result.token_ids) - stats.first_tokens
    decode_s = max(0.0, stats.wall_s - stats.time_to_first_token_s)
    return {
        "cache_n": stats.cached_tokens,
        "prompt_n": read,
        "prompt_ms": 1e3 * stats.time_to_first_token_s,
        "prompt_per_second": _rate(read, stats.time_to_first_token_s),
        "predicted_n": len(result.token_ids),
        "predicted_ms": 1e3 * decode_s,
        "predicted_per_second": _rate(later, decode_s),
        "draft_n": stats.num_drafted,
        "draft_n_accepted": stats.num_accepted,
    }


def chat_logprobs(tokenizer: Tokenizer, found: Iterable[TokenLogprob] | None) -> dict[str, Any] | None:
    """Those of a chat's tokens."""
    if found is None:
        return None

    def one(token: int, logprob: float) -> dict[str, Any]:
        spelled = tokenizer.token_bytes(token)
        text = spelled.decode("utf-8", "replace")
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(spelled)}

    content = [
        one(entry.token, entry.logprob) | {"top_logprobs": [one(*pair) for pair in entry.top]}
        for entry in found
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, found: Iterable[TokenLogprob] | None, offset: int = 0
) -> dict[str, Any] | None:
    """Those of a completion's tokens; `offset`: characters before the first of them."""
    if found is None:
        return None
    made: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for entry in found:
        text = _spelled(tokenizer, entry.token)
        made["tokens"].append(text)
        made["token_logprobs"].append(max(entry.logprob, LEAST))
        made["top_logprobs"].append({_spelled(tokenizer, t): max(p, LEAST) for t, p in reversed(entry.top)})
        made["text_offset"].append(offset)
        offset += len(text)
    return made


LEAST = -9999.0
"""What is written for a token that cannot be: JSON has no infinity."""


def _spelled(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "replace")


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def chunk(base: Mapping[str, Any], choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """One object of a stream."""
    return {**base, "choices": choices, **more}
