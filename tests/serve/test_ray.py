"""Replicas in a Ray cluster of this machine: tokens of plain decoding, who gets what, and one that dies."""

from __future__ import annotations

import http.client
import json
import socket
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from outpace.cli import serve as command
from outpace.core.errors import OutpaceError
from outpace.models.text import Model, load
from outpace.serve.front import create_front
from outpace.serve.sent import Sent
from tests.serve.asking import ask
from tests.server.living import NAME, tiny_gguf

ray = pytest.importorskip("ray", reason="needs Ray: make test-ray")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.serve.exceptions import BackPressureError

    from outpace.serve.ray import Options, Replica, Replicas, app, options_of

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own warnings are many
ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
TEXTS = "/v1/completions"
KEY = "secret"


class Cluster(NamedTuple):
    """Two replicas that answer, and the same model in this process."""

    port: int
    model: Model

    def ask(self, method: str, path: str, body: Any = None, key: str = KEY) -> tuple[int, Any]:
        """(status, JSON or text)."""
        with self.asked(method, path, body, key) as response:
            text = response.read().decode()
            return response.status, json.loads(text) if "json" in response.headers["content-type"] else text

    @contextmanager
    def asked(
        self, method: str, path: str, body: Any = None, key: str = KEY
    ) -> Iterator[http.client.HTTPResponse]:
        """An answer on its way; who leaves the block goes away."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def counts(self, name: str) -> dict[str, float]:
        """A counter of each replica."""
        status, text = self.ask("GET", "/metrics")
        assert status == 200, text
        return {
            sample.labels["replica"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"outpace:{name}"
        }

    def answers(self) -> dict[str, float]:
        """How many answers each replica has given, those that have given none among them."""
        ended = self.counts("request_success_total")
        return {replica: ended.get(replica, 0.0) for replica in self.counts("num_requests_running")}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "keys").write_text(f"{KEY}\n")
    args = {"model": str(tiny_gguf(folder)), "num_replicas": "2", "api_key_file": str(folder / "keys")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written to the home folder
        with load(args["model"], threads=1) as model:
            ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
            try:
                ray.serve.start(http_options={"host": "127.0.0.1", "port": port})
                ray.serve.run(app(args))
                yield Cluster(port, model)
            finally:
                ray.serve.shutdown()
                ray.shutdown()


def conversation(topic: str, turns: int) -> list[dict[str, str]]:
    roles = (["user", "assistant"] * turns)[: 2 * turns - 1]
    return [
        {"role": role, "content": f"{topic} {number}: {topic}, and {topic} once more"}
        for number, role in enumerate(roles)
    ]


def test_answers_are_those_of_plain_decoding(cluster: Cluster) -> None:
    for seed, temperature in enumerate([0, 0, 0.8, 1.2]):
        given: dict[str, Any] = {"max_tokens": 12, "seed": seed, "temperature": temperature}
        messages = conversation(f"boats {seed}", 1)
        status, answer = cluster.ask("POST", CHAT, {"messages": messages, **given})
        assert status == 200, answer
        plain = cluster.model.generate(messages, draft="none", **given)
        assert answer["choices"][0]["message"]["content"] == plain.text
        assert answer["usage"]["completion_tokens"] == plain.stats.completion_tokens
        text = {"prompt": "the boats", **given}
        status, answer = cluster.ask("POST", TEXTS, text)
        plain = cluster.model.generate("the boats", raw=True, draft="none", **given)
        assert status == 200 and answer["choices"][0]["text"] == plain.text


def test_a_stream_has_the_same_text(cluster: Cluster) -> None:
    body = {"prompt": "the wind", "max_tokens": 200, "temperature": 0, "ignore_eos": True, "stream": True}
    with cluster.asked("POST", TEXTS, body) as response:
        assert response.status == 200 and response.headers["content-type"].startswith("text/event-stream")
        *events, done = events_of(response)
    text = "".join(json.loads(event)["choices"][0]["text"] for event in events)
    plain = cluster.model.generate("the wind", raw=True, max_tokens=200, temperature=0, ignore_eos=True)
    assert done == "[DONE]" and text == plain.text
    assert len(events) > 20


def test_a_conversation_comes_back_to_the_replica_that_has_read_it(cluster: Cluster) -> None:
    before = cluster.answers()
    assert len(before) == 2
    cached: dict[str, list[int]] = {}
    for turns in (1, 2, 3):
        for topic in ("harbours", "mountains", "railways", "orchards"):
            body = {"messages": conversation(topic, turns), "max_tokens": 2, "temperature": 0}
            status, answer = cluster.ask("POST", CHAT, body)
            assert status == 200, answer
            cached.setdefault(topic, []).append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    more = {replica: number - before[replica] for replica, number in cluster.answers().items()}
    assert sum(more.values()) == 12 and all(number % 3 == 0 for number in more.values()), more
    assert all(cluster.answers().values()), "one has answered nothing at all"
    for first, second, third in cached.values():
        assert first < 30 < second < third, cached


def test_what_is_wrong_is_said_as_the_server_says_it(cluster: Cluster) -> None:
    status, answer = cluster.ask("POST", CHAT, {"messages": [{"role": "user", "content": "a"}], "top_p": 2})
    assert status == 400 and answer["error"]["param"] == "top_p"
    status, answer = cluster.ask("POST", CHAT, {"messages": []})
    assert status == 400 and answer["error"]["param"] == "messages"
    status, answer = cluster.ask("POST", TEXTS, {"prompt": "a", "model": "other"})
    assert status == 404 and f"accepted are {NAME}" in answer["error"]["message"]
    assert cluster.ask("GET", "/v1/models", key="wrong")[0] == 401
    assert cluster.ask("GET", "/nowhere")[0] == 404
    assert cluster.ask("GET", "/v1/models")[1]["data"][0]["id"] == NAME
    assert cluster.ask("GET", "/health")[1] == {"status": "ok"}


def test_a_client_that_goes_away_gives_its_place_back(cluster: Cluster) -> None:
    # It has an event before the text has come to its end, too.
    body = {"prompt": "the tide", "max_tokens": 480, "ignore_eos": True, "stream": True}
    failed = sum(cluster.counts("request_failed_total").values())
    with cluster.asked("POST", TEXTS, body) as response:
        assert response.status == 200 and next(events_of(response))
    until(lambda: sum(cluster.counts("request_failed_total").values()) == failed + 1, 20)
    assert not any(cluster.counts("num_requests_running").values())


def test_a_replica_that_dies_is_replaced(cluster: Cluster) -> None:
    body = {"prompt": "the tide", "max_tokens": 480, "n": 16, "ignore_eos": True, "stream": True}
    with cluster.asked("POST", TEXTS, body) as response:
        events = events_of(response)
        next(events)
        [dead] = [replica for replica, number in cluster.counts("num_requests_running").items() if number]
        [alive] = set(cluster.answers()) - {dead}
        ray.kill(ray.get_actor(f"SERVE_REPLICA::default#model#{dead}", namespace="serve"), no_restart=True)
        *_, last = events
    assert json.loads(last)["error"]["code"] == "unavailable"
    until(lambda: len(found := set(cluster.answers()) - {dead}) == 2 and alive in found, 90)
    assert dead not in cluster.answers()
    for topic in ("harbours", "mountains", "railways", "orchards"):
        status, answer = cluster.ask("POST", CHAT, {"messages": conversation(topic, 2), "max_tokens": 2})
        assert status == 200, answer


def events_of(response: http.client.HTTPResponse) -> Iterator[str]:
    while line := response.readline().decode():
        if line.startswith("data: "):
            yield line[6:].strip()


def until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait for it; what is not there yet may be a status of the cluster."""
    end = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except AssertionError:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)


class Handle:
    """Of a deployment whose replicas fail."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.answer = self

    def options(self, *, stream: bool) -> Handle:
        return self

    def remote(self, sent: Sent) -> Handle:
        return self

    async def __aiter__(self) -> AsyncIterator[Any]:
        raise self.error
        yield

    def cancel(self) -> None:
        """Nothing is under way."""


@pytest.mark.parametrize(("error", "status", "code"), [("full", 429, "busy"), ("dead", 503, "unavailable")])
def test_where_no_replica_answers_the_front_says_so(error: str, status: int, code: str) -> None:
    errors = {"full": BackPressureError(1, 1), "dead": ray.exceptions.ActorDiedError()}
    front = create_front(Replicas(Handle(errors[error]), 3), keys=(), origins=(), most_bytes=1024)
    answer = ask(front, "POST", TEXTS, {"prompt": "a"})
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "model is missing, accepted are model, alias"),
        ({"model": "a", "replicas": "2"}, "replicas is not supported, accepted are model, alias"),
        ({"model": "a", "rows": "0"}, "rows: Input should be greater than or equal to 1"),
        ({"model": "a", "rows": "many"}, "rows: Input should be a valid integer"),
        ({"model": "a", "timeout": "nan"}, "timeout: Input should be"),
        ({"model": "a", "draft": "nothing"}, "unknown drafter 'nothing'"),
        ({"model": "a", "default": {"seed": 1}}, "default names seed, accepted are temperature"),
        ({"model": "a", "default": '{"temperature": -1}'}, "accepted are finite numbers >= 0"),
    ],
)
def test_wrong_options_are_one_line(args: dict[str, Any], said: str) -> None:
    with pytest.raises(OutpaceError) as caught:
        options_of(args)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_without_keys_lets_nobody_think_there_are_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(OutpaceError, match="has no key"):
        app({"model": "a", "api_key_file": str(tmp_path / "keys")})


def test_options_are_those_of_the_command() -> None:
    import inspect

    own = {"num_replicas", "threads", "model"}
    known = inspect.signature(command.serve).parameters
    for name, field in Options.model_fields.items():
        if name not in own:
            expected = known[name].default
            found = field.get_default(call_default_factory=True)
            assert found == expected or not (found or expected), name


def test_the_configuration_of_a_cluster() -> None:
    from ray.serve.schema import ServeDeploySchema

    given = yaml.safe_load((ROOT / "deploy/ray.yaml").read_text())
    [one] = ServeDeploySchema.model_validate(given).applications
    assert one.import_path == f"{app.__module__}:{app.__name__}"
    assert options_of(one.args).num_replicas == 2


def test_a_replica_whose_thread_has_ended_is_ill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    replica = Replica(options_of({"model": str(tiny_gguf(tmp_path)), "alias": "other"}))
    replica.check_health()
    replica._house.of("other").worker.close()
    with pytest.raises(OutpaceError, match="accepted are replicas that take requests"):
        replica.check_health()
