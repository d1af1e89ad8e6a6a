"""The log: a line for every answer and every failure, as text or as one JSON object."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

from outpace.engine.engine import Event
from outpace.engine.request import Generation
from outpace.pricing.clock import now
from outpace.server.worker import LOG, Ticket


class Lines:
    """Writes a line for every request of a model that has left (see `worker.Watch`)."""

    def __init__(self, model: str) -> None:
        self._model = model

    def stepped(self, events: Sequence[Event]) -> None:
        """Nothing: a step has no line."""

    def ended(self, ticket: Ticket, result: Generation | None) -> None:
        """A request has left."""
        first_s = None if ticket.first is None else round(ticket.first - ticket.came, 4)
        fields: dict[str, Any] = {
            "model": self._model,
            "prompt_tokens": len(ticket.request.prompt),
            "first_token_s": first_s,
            "seconds": round(now() - ticket.came, 4),
        }
        if result is None:
            LOG.info("left", extra={"fields": fields})
            return
        stats = result.stats
        fields |= {
            "completion_tokens": len(result.token_ids),
            "finish_reason": result.finish_reason,
            "drafted": stats.num_drafted,
            "accepted": stats.num_accepted,
            "tokens_per_call": round(stats.mean_accepted_length, 3),
        }
        LOG.info("answered", extra={"fields": fields})


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        parts = [time.strftime("%H:%M:%S", time.localtime(record.created)), record.getMessage()]
        parts += [f"{name}={value}" for name, value in fields.items() if value is not None]
        return " ".join(parts) + _trace(self, record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        line = {
            "time": record.created,
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


FORMATS: dict[str, type[logging.Formatter]] = {"text": _Text, "json": _Json}


def write_lines(form: str) -> None:
    """The server's and uvicorn's lines go to standard error, in one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[form]())
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.INFO)
    under = logging.getLogger("uvicorn.error")
    under.handlers, under.propagate = [handler], False
    under.setLevel(logging.WARNING)


def _trace(form: logging.Formatter, record: logging.LogRecord) -> str:
    return f"\n{form.formatException(record.exc_info)}" if record.exc_info else ""
