"""The other end of the adapter's pipe: starts llama.cpp in its own environment and asks it things."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PYTHON = HERE / ".venv/bin/python"
ADAPTER = HERE / "llama_cpp_adapter.py"


class LlamaCpp:
    """A running adapter. `version` is that of llama-cpp-python."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.version: str = self._answer()["version"]

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request of those in the adapter's docstring; waits for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the llama.cpp process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def llama_cpp(python: str | Path, model: Path, *, threads: int, context: int) -> Iterator[LlamaCpp]:
    """llama.cpp with this model for the length of a `with` block."""
    command = [str(python), str(ADAPTER), "--model", str(model)]
    command += ["--threads", str(threads), "--context", str(context)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield LlamaCpp(process)  # leaving closes its standard input, which ends it


def requantize(python: str | Path, model: Path, copy: Path) -> None:
    """Let llama.cpp write a Q4_0 copy of a model, unless it is there."""
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        command = [str(python), str(ADAPTER), "--model", str(model), "--requantize", str(copy)]
        subprocess.run(command, check=True)
