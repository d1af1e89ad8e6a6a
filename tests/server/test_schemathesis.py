"""Schemathesis (https://schemathesis.io) reads /openapi.json and sends what fits it, and what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.server.living import NAME, Living


def test_nothing_that_is_sent_makes_the_server_fail(server: Living, tmp_path: Path) -> None:
    status, _, schema = server.ask("GET", "/openapi.json")
    assert status == 200
    for name, body in schema["components"]["schemas"].items():
        fields = body.get("properties", {})
        # Requests that reach the model, and short answers: there is little time.
        if "model" in fields:
            fields["model"] = {"const": NAME}
        for length in ("max_tokens", "max_completion_tokens"):
            if length in fields:
                fields[length] = {"type": "integer", "minimum": -1, "maximum": 4}
        if name == "Message":
            fields["role"] = {"enum": ["system", "user", "assistant", "tool", "robot"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(tmp_path / "schema.json")]
    options = {
        "--url": f"http://127.0.0.1:{server.port}",
        "--checks": "not_a_server_error",
        "--max-examples": "12",
    }
    arguments = [part for pair in options.items() for part in pair]
    run = subprocess.run(
        [*command, *arguments, "--generation-deterministic"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    counts = server.ask("GET", "/metrics")[2]
    done = [line for line in counts.splitlines() if line.startswith("outpace:request_success_total")]
    assert done, "no request has reached the model"
