"""Counters for Prometheus, by the names that vLLM and llama-server have behind their prefixes.

https://docs.vllm.ai/en/latest/usage/metrics.html; accepted tokens by position are what dashboards for
speculative decoding draw.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from outpace.engine.engine import Event
from outpace.engine.request import Generation
from outpace.pricing.clock import now
from outpace.server.worker import Ticket, Worker

FIRST_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
WHOLE_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
TOKEN_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


class Metrics:
    """All that is counted, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"outpace:{name}", text, ("model_name", *labels), registry=self.registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(
                f"outpace:{name}", text, ("model_name",), registry=self.registry, buckets=buckets
            )

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"outpace:{name}", text, ("model_name",), registry=self.registry)

        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts whose answers have ended.")
        self.cached_tokens = counter("prompt_tokens_cached", "Those that were not read anew.")
        self.tokens = counter("generation_tokens", "Tokens that were written.")
        self.success = counter("request_success", "Answers that came to their end.", "finished_reason")
        self.failed = counter("request_failed", "Requests that left without their end, cancelled ones too.")
        self.calls = counter("steps", "Calls of the model.")
        self.drafts = counter("spec_decode_num_drafts", "Drafts that the model scored.")
        self.drafted = counter("spec_decode_num_draft_tokens", "Drafted tokens that it scored.")
        self.accepted = counter("spec_decode_num_accepted_tokens", "Those of them that were kept.")
        self.by_position = counter(
            "spec_decode_num_accepted_tokens_per_pos",
            "Kept drafted tokens by their place, 0 first.",
            "position",
        )
        self.first = histogram("time_to_first_token_seconds", "From a request to its first token.", FIRST_S)
        self.whole = histogram("e2e_request_latency_seconds", "From a request to its end.", WHOLE_S)
        self.per_token = histogram("time_per_output_token_seconds", "Behind the first token.", TOKEN_S)
        self.stalled = Counter(
            "outpace:connections_stalled", "Clients that stood still and were hung up on.",
            registry=self.registry,
        )  # fmt: skip
        self.running = gauge("num_requests_running", "Requests that have a row of the model.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for one.")

    def watch(self, model: str) -> Counts:
        """What counts for one model."""
        return Counts(self, model)

    def count_here(self, model: str, worker: Worker) -> None:
        """Ask a worker how many requests there are."""
        self.running.labels(model).set_function(lambda: worker.num_running)
        self.waiting.labels(model).set_function(lambda: worker.num_here - worker.num_running)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


class Counts:
    """Counts what one worker does (see `worker.Watch`)."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model

    def stepped(self, events: Sequence[Event]) -> None:
        """A step is over."""
        all_of, model = self._metrics, self._model
        all_of.calls.labels(model).inc()
        for event in events:
            all_of.tokens.labels(model).inc(len(event.tokens))
            if not event.num_drafted:
                continue
            all_of.drafts.labels(model).inc()
            all_of.drafted.labels(model).inc(event.num_drafted)
            all_of.accepted.labels(model).inc(event.num_accepted)
            for position in range(event.num_accepted):
                all_of.by_position.labels(model, position).inc()

    def ended(self, ticket: Ticket, result: Generation | None) -> None:
        """A request has left."""
        all_of, model = self._metrics, self._model
        if ticket.first is not None:
            all_of.first.labels(model).observe(ticket.first - ticket.came)
        if result is None:
            all_of.failed.labels(model).inc()
            return
        all_of.success.labels(model, result.finish_reason).inc()
        all_of.prompt_tokens.labels(model).inc(result.prompt_tokens)
        all_of.cached_tokens.labels(model).inc(result.stats.cached_tokens)
        end = now()
        all_of.whole.labels(model).observe(end - ticket.came)
        if ticket.first is not None and len(result.token_ids) > result.stats.first_tokens:
            later = len(result.token_ids) - result.stats.first_tokens
            all_of.per_token.labels(model).observe((end - ticket.first) / later)
