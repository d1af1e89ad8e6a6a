"""Clients that take or send nothing for a while are hung up on; slow ones get all of it."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator

import pytest

from outpace.server.run import bound
from tests.server.living import NAME, Living, Steps, living, sent, within

STALLED_S = 1.0
BODY = {"model": NAME, "prompt": "a", "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    """A server of little patience, whose system keeps few bytes for a client."""

    def little(host: str, port: int) -> socket.socket:
        place = bound(host, port)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return place

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.server.living.bound", little)
        with living(tmp_path_factory.mktemp("small"), stalled_s=STALLED_S) as server:
            yield server


def num_stalled(server: Living) -> int:
    text = server.ask("GET", "/metrics")[2]
    (line,) = [one for one in text.splitlines() if one.startswith("outpace:connections_stalled_total ")]
    return int(float(line.split()[1]))


def test_who_does_not_read_is_written_for_no_more(
    small: Living, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker, steps, before = small.house.of(NAME).worker, Steps(small, monkeypatch), num_stalled(small)
    with caplog.at_level(logging.WARNING, "outpace.server"):
        line = sent(small, "/v1/completions", {**BODY, "max_tokens": 480}, receives=2048)
        assert within(30, lambda: worker.num_here == 1)
        assert within(30, lambda: worker.num_here == 0 and worker.num_running == 0)
    assert steps.count < 400
    assert num_stalled(small) == before + 1
    assert "taken nothing for 1 seconds" in caplog.text
    got = b""
    with line:
        while piece := line.recv(1 << 16):
            got += piece
    assert b"data: {" in got and b"[DONE]" not in got


def test_who_reads_slowly_gets_all_of_it(small: Living) -> None:
    before, got, began = num_stalled(small), b"", time.monotonic()
    with sent(small, "/v1/completions", {**BODY, "max_tokens": 120}, receives=2048) as line:
        while b"[DONE]" not in got:
            piece = line.recv(100)
            assert piece, got
            got += piece
            time.sleep(0.02)
    assert time.monotonic() - began > 1.5 * STALLED_S
    assert b'"finish_reason":"length"' in got and num_stalled(small) == before


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /v1/completions HT",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n" + json.dumps({}).encode(),
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ],
)
def test_who_does_not_send_the_rest_is_not_waited_for(
    small: Living, begun: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = num_stalled(small)
    with socket.create_connection(("127.0.0.1", small.port), timeout=30) as line:
        line.sendall(begun)
        try:
            assert line.recv(1000) == b""
        except ConnectionResetError:
            pass
    assert num_stalled(small) == before + 1
    assert "Traceback" not in caplog.text


def test_who_waits_long_for_an_answer_may(small: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small.house.of(NAME).worker._engine
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: time.sleep(1.5 * STALLED_S) or step())
    assert small.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200
