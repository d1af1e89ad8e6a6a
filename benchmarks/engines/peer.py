"""Our end of an adapter's pipe: starts an engine in an environment of its own and asks it things."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from outpace.core.errors import OutpaceError

FOLDER = Path(__file__).parent
ENVIRONMENTS = FOLDER.parent / ".venvs"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))
LAST_WORDS = 5  # lines of its log that an engine which has ended is quoted with


class CannotOpen(OutpaceError):
    """An engine ended before it had opened the model."""


class Peer:
    """A running adapter. Its requests are those of `serve.py`."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        try:
            hello = self._answer()
        except OutpaceError as error:
            raise CannotOpen(str(error)) from error
        self.version: str = hello["version"]
        self.methods: list[str] = hello["methods"]
        self.can: list[str] = hello["can"]

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request; waits for the answer. Raises OutpaceError where the engine has ended."""
        pipe = self._process.stdin
        assert pipe is not None
        if self._process.poll() is None:  # else what it said last is the answer
            try:
                pipe.write(json.dumps(request) + "\n")
                pipe.flush()
            except BrokenPipeError:
                with suppress(BrokenPipeError):
                    pipe.close()  # what it has not read would be written once more
        return self._answer()

    def decode(self, text: str, tokens: Sequence[int], max_tokens: int, method: str) -> dict[str, Any]:
        return self.ask(do="decode", tokens=list(tokens), max_tokens=max_tokens, method=method)

    def prompt(self, tokens: Sequence[int]) -> float:
        return float(self.ask(do="prompt", tokens=list(tokens))["seconds"])

    def call(self, cached: Sequence[int], block: Sequence[int], calls: int) -> list[float] | None:
        """None where the engine has no way to score a given block."""
        if "call" not in self.can:
            return None
        answer = self.ask(do="call", cached=list(cached), block=list(block), calls=calls)
        seconds: list[float] = answer["seconds"]
        return seconds

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            said = self._log.read_text(errors="replace").strip().splitlines()[-LAST_WORDS:]
            raise OutpaceError(
                f"{self.name} ended with status {status}: {' / '.join(said) or 'without a word'}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def open_peer(
    name: str, model: Path, *, threads: int, context: int, draft_model: Path | None = None
) -> Iterator[Peer]:
    """An engine with this model for the length of a `with` block; OutpaceError where it is not installed.

    CannotOpen where it cannot read the model.
    """
    python = ENVIRONMENTS / name / "bin/python"
    if name not in NAMES:
        raise OutpaceError(f"there is no engine {name}; accepted: {', '.join(NAMES)}")
    if not python.exists():
        raise OutpaceError(f"{name} is not installed: make benchmarks/.venvs/{name}/.ready")
    options = ["--model", str(model.absolute()), "--threads", str(threads), "--context", str(context)]
    if draft_model is not None:
        options += ["--draft-model", str(draft_model.absolute())]
    with start(name, [str(python), "-m", f"{__package__}.{name}", *options]) as peer:
        yield peer


@contextmanager
def start(name: str, command: Sequence[str]) -> Iterator[Peer]:
    """An adapter by its command line, run where `benchmarks` can be imported from."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with (
            log.open("w") as words,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                cwd=FOLDER.parents[1],
            ) as process,
        ):
            yield Peer(name, process, log)  # leaving closes its standard input, which ends it
