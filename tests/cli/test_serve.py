"""`outpace serve`: options that are refused before a model is loaded, and a process from start to end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from outpace.cli.main import main
from outpace.server.run import names_of
from tests.server.living import tiny_gguf


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        (["--port", "70000"], "65535"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid:8080"),
        (["--alias", "a", "--alias", "b"], "2 aliases for 1 models"),
        (["-m", "x/one.gguf", "-m", "y/one.gguf"], "two models have the name one"),
        (["--timeout", "0"], "accepted are seconds > 0"),
        (["--timeout", "nan"], "accepted are seconds > 0"),
        (["--places", "0"], "1"),
        (["--log", "xml"], "accepted are text, json"),
        (["--draft", "nothing"], "unknown drafter 'nothing'"),
        (["--default", "temperature"], "accepted are NAME=VALUE"),
        (["--default", "temperature=-1"], "accepted are finite numbers >= 0"),
        (["--default", "seed=1"], "--default names seed, accepted are temperature"),
        (["--default", 'max_tokens="a"'], "max_tokens is 'a'"),
        (["--api-key-file", "missing.txt"], "missing.txt"),
        (["-m", "missing.gguf", "--port", "0"], "missing.gguf"),
    ],
)
def test_what_is_wrong_is_one_line(
    options: list[str],
    accepted: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and accepted in error


def test_an_empty_file_of_keys_lets_nobody_think_there_are_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys").write_text("\n\n")
    assert main(["serve", "--api-key-file", str(tmp_path / "keys")]) == 2
    assert "has no key" in capsys.readouterr().err


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named() -> None:
    script = "import sys; sys.modules['fastapi'] = None; from outpace.cli.main import main; "
    script += "sys.exit(main(['serve']))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr == (
        "error: a server needs the package fastapi, accepted is an installation of outpace[server]\n"
    )


def test_names() -> None:
    assert names_of(["a/b.Q4.gguf", "org/model", "smollm2"]) == ["b.Q4", "model", "smollm2"]
    assert names_of(["a/b.gguf", "org/model"], ["gpt"]) == ["gpt", "model"]


def test_a_process_answers_and_ends_when_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-c", "import sys; from outpace.cli.main import main; sys.exit(main())"]
    options = ["serve", "-m", str(tiny_gguf(tmp_path)), "--port", "0", "--threads", "1", "--log", "json"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = _url(process.stderr)
            body = json.dumps({"prompt": "the boats", "max_tokens": 5, "temperature": 0}).encode()
            given = urllib.request.Request(
                f"{url}/completions", body, {"Content-Type": "application/json"}, method="POST"
            )
            with urllib.request.urlopen(given, timeout=60) as response:
                assert json.load(response)["usage"]["completion_tokens"] == 5
            line: dict[str, Any] = json.loads(process.stderr.readline())
            assert (line["event"], line["model"], line["completion_tokens"]) == ("answered", "tiny", 5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) in (0, -signal.SIGTERM)
        finally:
            process.kill()
        assert "Traceback" not in process.stderr.read()


def _url(lines: Any) -> str:
    for line in lines:
        if found := re.search(r"http://\S+/v1", line):
            return found[0]
    raise AssertionError("it has not begun")
