"""What a route reaches through the app that it belongs to."""

from __future__ import annotations

from typing import cast

from fastapi import Request as Http

from outpace.server.metrics import Metrics
from outpace.server.serving import House


def house_of(http: Http) -> House:
    """The models that are served."""
    return cast(House, http.app.state.house)


def metrics_of(http: Http) -> Metrics:
    """What is counted."""
    return cast(Metrics, http.app.state.metrics)
