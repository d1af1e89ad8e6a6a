"""Replicas of the server in a Ray cluster: https://docs.ray.io/en/latest/serve/

    serve run outpace.serve.ray:app model=smollm2-135m-instruct num_replicas=2 threads=4

A deployment `front` takes requests from Ray's proxies. It passes each to a replica of the deployment `model`,
which is a server as `outpace serve` starts it. Ray's own router finds the replica that was sent the beginning
of a prompt before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import ray.exceptions
from fastapi import FastAPI
from prometheus_client import Metric
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.types import Message

from outpace.core.errors import OutpaceError
from outpace.models.method import Method
from outpace.models.text import Model as Loaded
from outpace.models.text import load
from outpace.serve.front import create_front
from outpace.serve.sent import Sent, messages
from outpace.server.app import MOST_BYTES, create_app
from outpace.server.errors import Refused, first_of
from outpace.server.guards import keys_in
from outpace.server.run import GRACE_S, names_of, open_house
from outpace.server.serving import Settings, check_defaults
from outpace.server.worker import Busy

# Its public name, ray.serve.llm.request_router, can be imported only where vLLM is installed.
ROUTER = "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router:PrefixCacheAffinityRouter"
MODEL, FRONT = "model", "front"
PASSED_ON = 10_000  # requests that the front holds at once; how many there may be is the replicas' to say
METRICS_S = 10.0
USUAL = Settings()


class Options(BaseModel):
    """What `app` takes: options of `outpace serve` by their names there, and two of Ray.

    num_replicas  how many servers there are.
    threads       of a replica, and so many processors Ray keeps for it.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    alias: str | None = None
    num_replicas: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    draft: str | None = None
    rows: int = Field(USUAL.rows, ge=1)
    places: int = Field(USUAL.places, ge=1)
    timeout: float = Field(USUAL.timeout, gt=0, allow_inf_nan=False)
    max_body: int = Field(MOST_BYTES, ge=1024)
    default: dict[str, Any] | Json[dict[str, Any]] = Field(default_factory=dict)
    context_length: int | None = Field(None, ge=1)
    cache_tokens: int | None = Field(None, ge=1)
    api_key_file: Path | None = None
    cors_origin: list[str] = Field(default_factory=list)


def options_of(args: Mapping[str, Any]) -> Options:
    """The options, checked as far as they can be without the model. Raises an OutpaceError."""
    try:
        options = Options.model_validate(dict(args))
    except ValidationError as error:
        field, message = first_of(error.errors())
        known = field is not None and field.partition(".")[0] in Options.model_fields and "model" in args
        accepted = "" if known else f", accepted are {', '.join(Options.model_fields)}"
        raise OutpaceError(f"{message}{accepted}") from None
    if options.draft is not None:
        Method.parse(options.draft).check()
    check_defaults(options.default, "default")
    return options


def app(args: Mapping[str, Any]) -> Any:
    """The application of Ray Serve with these options (see `Options`). Raises an OutpaceError."""
    options = options_of(args)
    # Read here, so that what is wrong with the file is said to who starts it.
    keys = [] if options.api_key_file is None else keys_in(options.api_key_file.expanduser())

    def build() -> FastAPI:
        handle = serve.get_deployment_handle(MODEL, app_name=serve.get_replica_context().app_name)
        return create_front(
            Replicas(handle, options.places),
            keys=keys,
            origins=options.cors_origin,
            most_bytes=options.max_body,
        )

    replicas = serve.deployment(Replica).options(
        name=MODEL,
        num_replicas=options.num_replicas,
        ray_actor_options={"num_cpus": options.threads},
        max_ongoing_requests=options.places,
        max_queued_requests=options.places * options.num_replicas,
        graceful_shutdown_timeout_s=GRACE_S,
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTER,
            # Beyond a full engine's requests more than another one, a replica gets none for what it has read.
            request_router_kwargs={"imbalanced_threshold": options.rows, "do_eviction": True},
        ),
    )
    front = serve.deployment(serve.ingress(build)()).options(
        name=FRONT,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=PASSED_ON,
        graceful_shutdown_timeout_s=GRACE_S,
    )
    return front.bind(replicas.bind(options))


class Replica:
    """One server: the app of `outpace serve` over a model of its own."""

    def __init__(self, options: Options) -> None:
        names = names_of([options.model], [] if options.alias is None else [options.alias])
        settings = Settings(
            draft=options.draft,
            rows=options.rows,
            places=options.places,
            timeout=options.timeout,
            defaults=options.default,
        )

        def open_model(source: str) -> Loaded:
            return load(
                source,
                threads=options.threads,
                context_length=options.context_length,
                cache_tokens=options.cache_tokens,
            )

        self._house, self._metrics = open_house([options.model], names, open_model, settings)
        self._app = create_app(self._house, self._metrics, most_bytes=options.max_body)

    async def answer(self, sent: Sent) -> AsyncGenerator[Message, None]:
        """What the app answers; who stops to listen cancels it."""
        async with aclosing(messages(self._app, sent)) as answer:
            async for message in answer:
                yield message

    def metrics(self) -> tuple[str, Sequence[Metric]]:
        """The name of this replica, and what it counts."""
        name: str = serve.get_replica_context().replica_id.unique_id
        return name, list(self._metrics.registry.collect())

    def check_health(self) -> None:
        """Raise an OutpaceError if it takes no requests: Ray then puts another replica in its place."""
        if not self._house.is_open:
            raise OutpaceError("the thread of a model has ended, accepted are replicas that take requests")

    def __del__(self) -> None:
        """End the engine's thread; Ray has waited for the answers under way."""
        if hasattr(self, "_house"):
            self._house.close()


class Replicas:
    """All replicas of a deployment, for the front."""

    def __init__(self, handle: Any, places: int) -> None:
        self._handle = handle
        self._places = places

    async def answer(self, sent: Sent) -> AsyncGenerator[Message, None]:
        """What a replica answers. Raises Busy or Refused where none takes the request."""
        call = self._handle.options(stream=True).answer
        # The router reads `prompt` of the first argument by position, and needs one that is not empty.
        answer = call.remote(sent) if sent.prompt else call.remote(sent=sent)
        try:
            with self._said():
                async for message in answer:
                    yield message
        finally:
            answer.cancel()

    async def metrics(self) -> Mapping[str, Sequence[Metric]]:
        """What each replica counts, by its name. Raises Refused where one of them is going."""
        with self._said():
            return dict(await self._handle.broadcast("metrics").results_async(timeout_s=METRICS_S))

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Ray's errors become ours."""
        try:
            yield
        except BackPressureError:
            raise Busy(f"all {self._places} places of every replica are taken; try again later") from None
        except (DeploymentUnavailableError, ray.exceptions.RayActorError) as error:
            message = "the replica has gone, accepted is the same request to another one"
            raise Refused(message, status=503, code="unavailable") from error
