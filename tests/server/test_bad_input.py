"""Whatever is sent gets an error object with the right status, and the server goes on."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from pydantic import ValidationError

from outpace.server.bodies import CompletionBody
from tests.server.living import NAME, Living, living

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "a"}]


def body(**options: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": MESSAGES, "max_tokens": 4, **options}


BODIES: list[tuple[str, Any, str | None, str]] = [
    (CHAT, b"", None, "missing"),
    (CHAT, b"{", None, "not JSON"),
    (CHAT, b"\xff\xfe{}", None, "JSON"),
    (CHAT, b'{"messages": "\xc3\x28"}', None, ""),
    (CHAT, b"[" * 100_000, None, ""),
    (CHAT, b'{"max_tokens": ' + b"9" * 5000 + b"}", None, ""),
    (CHAT, [], None, "dictionary"),
    (CHAT, "text", None, "dictionary"),
    (CHAT, {"model": NAME}, "messages", "missing"),
    (CHAT, body(messages=[]), "messages", "at least 1"),
    (CHAT, body(messages="hello"), "messages", "list"),
    (CHAT, body(messages=[{"role": "robot", "content": "a"}]), "messages", "accepted are system, developer"),
    (CHAT, body(messages=[{"content": "a"}]), None, "role"),
    (CHAT, body(messages=[{"role": "user", "content": 3}]), None, "content"),
    (CHAT, body(messages=[{"role": "user", "content": "\ud800"}]), None, ""),
    (
        CHAT,
        body(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        "messages",
        "accepted is text",
    ),
    (
        CHAT,
        body(messages=[{"role": "tool", "content": "a", "tool_call_id": "x"}]),
        "messages",
        "ids of calls",
    ),
    (CHAT, body(tools=[{"type": "function", "function": {"name": "f"}}]), "tools", "takes none"),
    (CHAT, body(tools=[{"type": "retrieval"}]), "tools", ""),
    (CHAT, body(tool_choice="required"), "tool_choice", "goes with tools"),
    (CHAT, body(parallel_tool_calls=3), "parallel_tool_calls", "boolean"),
    (CHAT, body(model=3), "model", "string"),
    (CHAT, body(max_tokens=0), "max_tokens", ">= 1"),
    (CHAT, body(max_tokens=-5), "max_tokens", ">= 1"),
    (CHAT, body(max_tokens=10**30), "max_tokens", ""),
    (CHAT, body(max_tokens=4.5), "max_tokens", "integer"),
    (CHAT, body(max_tokens="4"), "max_tokens", "integer"),
    (CHAT, body(max_tokens=True), "max_tokens", "integer"),
    (CHAT, body(max_completion_tokens=5), "max_tokens", "differ"),
    (CHAT, body(temperature="hot"), "temperature", "number"),
    (CHAT, b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "temperature", ""),
    (CHAT, b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', "temperature", ""),
    (CHAT, body(top_p=0), "top_p", "accepted are 0 < top_p <= 1"),
    (CHAT, body(min_p=2), "min_p", "accepted are"),
    (CHAT, body(top_k=-3), "top_k", "accepted are"),
    (CHAT, body(seed=2**64), "seed", ""),
    (CHAT, body(n=0), "n", "greater than"),
    (CHAT, body(n=1000), "n", "less than"),
    (CHAT, body(stop=[""]), None, "at least one character"),
    (CHAT, body(stop=3), "stop", ""),
    (CHAT, body(stop=["a"] * 129), "stop", "accepted are 128 texts of 4096 letters at most"),
    (CHAT, body(stop="a" * 4097), "stop", "accepted are 128 texts of 4096 letters at most"),
    (CHAT, body(stop_token_ids=[5] * 1025), "stop_token_ids", "at most 1024"),
    (CHAT, body(structured_outputs={"regex": "a" * 70_000}), None, "accepted are 65536 at most"),
    (CHAT, body(metadata={f"{i}": 1 for i in range(40_000)}), None, "accepted are 32768 at most"),
    (CHAT, body(logit_bias={f"{i}": 1 for i in range(40_000)}), None, "accepted are 32768 at most"),
    (CHAT, body(logit_bias=[["5", 1]]), "logit_bias", ""),
    (CHAT, body(**{f"a{i}": 1 for i in range(40_000)}), None, "accepted are 32768 at most"),
    (CHAT, body(stop_token_ids=[10**6]), "stop_token_ids", "accepted are"),
    (CHAT, body(logit_bias={"a": 1}), "logit_bias", "token ids"),
    (CHAT, body(logit_bias={"100000": 1}), "logit_bias", "accepted are"),
    (CHAT, body(logit_bias=[[1]]), "logit_bias", ""),
    (CHAT, body(min_tokens=5), "min_tokens", "accepted are"),
    (CHAT, body(repetition_penalty=0), "repetition_penalty", "accepted are"),
    (CHAT, body(repetition_penalty=1.1, repeat_penalty=1.2), "repeat_penalty", "accepted is one"),
    (CHAT, body(top_logprobs=3), "top_logprobs", "needs logprobs"),
    (CHAT, body(logprobs=True, top_logprobs=21), "top_logprobs", "less than"),
    (CHAT, body(logprobs=3), "logprobs", "boolean"),
    (CHAT, body(frobnicate=1), "frobnicate", "not supported"),
    (CHAT, body(audio={"voice": "x"}), "audio", "not supported"),
    (CHAT, body(store=True), "store", ""),
    (CHAT, body(stream="yes"), "stream", "boolean"),
    (CHAT, body(stream_options={"usage": True}), "stream_options.usage", "not supported"),
    (CHAT, body(timeout=-1), "timeout", "greater than"),
    (CHAT, body(chat_template_kwargs={"messages": []}), None, "chat_template_kwargs"),
    (TEXT, {"model": NAME}, "prompt", "missing"),
    (TEXT, {"model": NAME, "prompt": []}, "prompt", "empty"),
    (TEXT, {"model": NAME, "prompt": ""}, None, "accepted are prompts of 1 token or more"),
    (TEXT, {"model": NAME, "prompt": [[]]}, None, "accepted are 1 or more"),
    (TEXT, {"model": NAME, "prompt": [10**7]}, None, "token ids"),
    (TEXT, {"model": NAME, "prompt": [-1]}, "prompt", ""),
    (TEXT, {"model": NAME, "prompt": ["a"] * 2049}, "prompt", "accepted are 2048 at most"),
    (TEXT, {"model": NAME, "prompt": [[5]] * 2049}, "prompt", "accepted are 2048 at most"),
    (TEXT, {"model": NAME, "prompt": [*[5] * 100_000, "a"]}, "prompt", ""),
    (TEXT, {"model": NAME, "prompt": [1.0]}, "prompt", ""),
    (TEXT, {"model": NAME, "prompt": [True]}, "prompt", ""),
    (TEXT, {"model": NAME, "prompt": "a", "best_of": 3}, "best_of", "accepted is n"),
    (TEXT, {"model": NAME, "prompt": "a", "suffix": "b"}, "suffix", ""),
    (TEXT, {"model": NAME, "prompt": "a", "echo": True, "logprobs": 1}, "echo", "accepted is one"),
    ("/v1/embeddings", {"input": ["a"] * 2049}, "input", "accepted are 2048 at most"),
    ("/v1/responses", {"input": "a", "metadata": {"a": "\ud800"}, "stream": True}, "metadata", ""),
    ("/v1/responses", {"input": [{"role": "user", "content": [{}] * 1000}]}, "input", ""),
    ("/tokenize", {"content": 3}, "content", "string"),
    ("/detokenize", {"tokens": [10**8]}, "tokens", "accepted are"),
    ("/detokenize", {"tokens": ["a"]}, "tokens", "integer"),
]


@pytest.mark.parametrize("case", BODIES, ids=lambda case: f"{case[1]!r}"[:60])
def test_a_body_that_is_wrong(server: Living, case: tuple[str, Any, str | None, str]) -> None:
    path, given, param, message = case
    status, _, answer = server.ask("POST", path, given)
    assert status == 400, answer
    error = answer["error"]
    assert error["type"] == "invalid_request_error"
    assert message in error["message"] and "\n" not in error["message"] and len(error["message"]) < 2500
    if param is not None:
        assert error["param"].startswith(param)
    assert server.ask("POST", CHAT, body())[0] == 200


def test_an_error_is_told_of_the_first_part_of_a_list() -> None:
    """A body has room for a million wrong parts, and an error for each takes seconds and gigabytes."""
    for many in ({"prompt": [*[5] * 1000, *["a"] * 1000]}, {"prompt": "a", "stop_token_ids": ["a"] * 1000}):
        with pytest.raises(ValidationError) as found:
            CompletionBody.model_validate(many)
        assert found.value.error_count() <= 4


def test_biases_as_pairs(server: Living) -> None:
    asked = {"prompt": "a", "max_tokens": 4, "temperature": 0}
    pairs = server.ask("POST", TEXT, {**asked, "logit_bias": [[70, 100], [71, False]]})
    named = server.ask("POST", TEXT, {**asked, "logit_bias": {"70": 100}})
    assert pairs[0] == 200 and pairs[2]["choices"] == named[2]["choices"]


def test_paths_and_methods(server: Living) -> None:
    assert server.ask("GET", "/v1/nothing")[0] == 404
    assert server.ask("GET", "/v1/nothing")[2]["error"]["type"] == "not_found_error"
    assert server.ask("GET", CHAT)[0] == 405
    assert server.ask("POST", CHAT, body(model="other"))[0] == 404


def test_ten_megabytes(server: Living) -> None:
    text = json.dumps(body(messages=[{"role": "user", "content": "a" * (10 << 20)}])).encode()
    try:
        status, _, answer = server.ask("POST", CHAT, text)
        assert (status, answer["error"]["param"]) == (413, None)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hangs up before all is sent
    assert server.ask("POST", CHAT, body())[0] == 200


def test_a_long_body_without_a_length(server: Living) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n")
        line.sendall(b"Content-Type: application/json\r\n\r\n")
        part = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        try:
            for _ in range(100):  # 6.5 MB
                line.sendall(part)
            line.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            assert line.recv(1000).startswith(b"HTTP/1.1 413")
    assert server.ask("POST", CHAT, body())[0] == 200


def _is_idle(server: Living) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if server.house.of(NAME).worker.num_here == 0:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_gives_its_place_back(server: Living, stream: bool) -> None:
    text = json.dumps(body(max_tokens=480, ignore_eos=True, stream=stream)).encode()
    line = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    line.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
    while server.house.of(NAME).worker.num_here == 0:
        time.sleep(0.001)
    line.close()
    assert _is_idle(server)
    failed = server.ask("GET", "/metrics")[2]
    assert "outpace:request_failed_total" in failed


def test_a_slow_client_gets_all_of_it(server: Living) -> None:
    text = json.dumps(body(max_tokens=60, ignore_eos=True, stream=True, temperature=0)).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\nConnection: close\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        for at in range(0, len(head), 40):  # in small pieces
            line.sendall(head[at : at + 40].encode())
            time.sleep(0.005)
        line.sendall(text)
        got = b""
        while piece := line.recv(200):
            got += piece
            time.sleep(0.002)
    assert b"data: [DONE]" in got and b'"finish_reason":"length"' in got


def test_a_full_server_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    from outpace.server.serving import Settings

    with living(tmp_path_factory.mktemp("full"), Settings(places=2)) as server:
        status, headers, answer = server.ask("POST", CHAT, body(n=3))
        assert (status, headers["retry-after"], answer["error"]["code"]) == (429, "1", "busy")
        assert server.ask("POST", CHAT, body(n=2))[0] == 200


def test_time_that_is_over(server: Living) -> None:
    status, _, answer = server.ask("POST", CHAT, body(max_tokens=480, ignore_eos=True, timeout=1e-6))
    assert (status, answer["error"]["code"]) == (408, "timeout")
    status, _, answer = server.ask("POST", CHAT, body(max_tokens=480, timeout=1e-6, stream=True))
    assert status == 200 and '"code":"timeout"' in answer and "[DONE]" not in answer
    assert _is_idle(server)
