"""`outpace` as a process: streams that are closed, full or narrow, a start that is interrupted."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

# A model that answers with its prompt and some letters, in place of outpace.load.
ECHO = """
import sys
from types import SimpleNamespace
import outpace
from outpace.cli.main import main

class Stream:
    result = None
    def __init__(self, *pieces):
        self.pieces = iter(pieces)
    def __iter__(self):
        return self.pieces

class Model:
    own_draft = "ngram"
    def stream(self, prompt, **request):
        return Stream(f"{prompt!s}|", {answer!r}, ".")
    def prepare(self, *args, **options):
        pass

outpace.load = lambda source, **options: Model()
sys.exit(main())
"""
STARTED = """
import os, signal, sys
sys.argv = ["/usr/bin/outpace", "generate", "x"]
{before}
from outpace.cli.main import main
sys.exit(main())
"""


def run(
    redirection: str,
    *args: str | bytes,
    answer: str = "ok",
    stdin: bytes | None = b"",
    env: dict[str, str] | None = None,
) -> tuple[int, bytes, bytes]:
    """Through a shell, which can close and redirect."""
    command = [
        "sh",
        "-c",
        f'"$@" {redirection}',
        "sh",
        sys.executable,
        "-c",
        ECHO.replace("{answer!r}", ascii(answer)),
    ]
    done = subprocess.run(
        [*command, *args],
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONUTF8": "0", **(env or {})},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("redirection", "args", "line"),
    [
        ("<&-", ("generate", "-"), b"standard input is closed"),
        ("<&-", ("chat",), b"standard input is closed"),
        ("</dev/zero", ("generate", "-"), b"standard input is too long, accepted are texts of 64 MB"),
        ("</dev/zero", ("chat",), b"standard input is too long, accepted are texts of 64 MB"),
        (">&-", ("generate", "x"), b"standard output is closed"),
        (">&-", ("--version",), b"standard output is closed"),
        (">&-", ("methods",), b"standard output is closed"),
        (">/dev/full", ("generate", "x"), b"standard output cannot be written: No space left on device"),
        (">/dev/full", ("--help",), b"standard output cannot be written: No space left on device"),
        (">/dev/full", ("methods", "--json"), b"standard output cannot be written: No space left on device"),
        ("1</dev/null", ("generate", "x"), b"standard output cannot be written: Bad file descriptor"),
    ],
)
def test_streams_that_cannot_be_used(redirection: str, args: tuple[str, ...], line: bytes) -> None:
    assert run(redirection, *args) == (2, b"", b"error: " + line + b"\n")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_without_standard_error_the_answer_and_the_status_stay(redirection: str) -> None:
    assert run(redirection, "generate", "x") == (0, b"x|ok.\n", b"")
    assert run(redirection, "generate", "x", "--top-p", "7") == (2, b"", b"")


@pytest.mark.parametrize(
    ("env", "answer", "written", "lost"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "é 🙂", b"\\xe9 \\U0001f642", b"ascii: 2 characters"),
        ({"PYTHONIOENCODING": "latin-1"}, "é∑", b"\xe9\\u2211", b"iso8859-1: 1 characters"),
        ({"PYTHONIOENCODING": "utf-8"}, "é∑\ufffd", "é∑\ufffd".encode(), b""),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, "é", b"\\xe9", b"ascii: 1 characters"),
        ({"PYTHONIOENCODING": "ascii"}, "plain", b"plain", b""),
    ],
)
def test_narrow_output_is_escaped_and_said(
    env: dict[str, str], answer: str, written: bytes, lost: bytes
) -> None:
    status, out, err = run("", "generate", "x", answer=answer, env=env)
    assert out == b"x|" + written + b".\n"
    if lost:
        assert status == 2 and err.startswith(b"error: standard output is " + lost) and err.count(b"\n") == 1
    else:
        assert (status, err) == (0, b"")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "en_US.ISO-8859-1"])
@pytest.mark.parametrize("coerced", ["0", "1"])
def test_texts_are_utf_8_in_every_locale(locale: str, coerced: str) -> None:
    env = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": coerced, "PYTHONIOENCODING": "utf-8"}
    said = "é∑".encode()
    assert run("", "generate", said, env=env) == (0, said + b"|ok.\n", b"")
    assert run("", "generate", "-", stdin=said + b"\n", env=env) == (0, said + b"|ok.\n", b"")
    assert run("", "generate", b"\xe9", env=env) == (2, b"", b"error: the prompt is not UTF-8 text\n")
    wrong = b"error: the prompt on standard input is not UTF-8 text\n"
    assert run("", "generate", "-", stdin=b"\xe9", env=env) == (2, b"", wrong)


def test_a_name_that_is_no_utf_8_is_written_as_it_is(tmp_path: Path) -> None:
    cache = os.fsencode(tmp_path) + b"/\xe9"
    out = run("", "models", "list", env={"OUTPACE_CACHE": os.fsdecode(cache)})[1]
    assert out.endswith(b"in " + cache + b"\n")


def test_nobody_has_no_home() -> None:
    env = {"HOME": "~", "OUTPACE_CACHE": "", "XDG_CACHE_HOME": ""}
    status, out, err = run("", "models", "list", env=env)
    assert (status, out) == (2, b"") and b"set OUTPACE_CACHE" in err and err.count(b"\n") == 1


def test_a_terminal_is_not_steered() -> None:
    """What a model says goes to a terminal without control characters; into a pipe, as it is."""
    answer = "a\x1b[31m\x9b2J\x07\tb\nc"
    assert run("", "generate", "x", answer=answer)[1] == f"x|{answer}.\n".encode()
    code = ECHO.replace("{answer!r}", ascii(answer))
    assert on_terminal("-c", code, "generate", "x") == "x|a\\x1b[31m\\x9b2J\\x07\tb\r\nc.\r\n"


def on_terminal(*args: str, env: dict[str, str] | None = None) -> str:
    """What Python with these arguments writes on a terminal."""
    leader, follower = pty.openpty()
    given = {**os.environ, "TERM": "xterm", "NO_COLOR": "", **(env or {})}
    subprocess.run([sys.executable, *args], stdout=follower, env=given, check=True, timeout=60)
    os.close(follower)
    written = b""
    with suppress(OSError):  # the end, to a terminal whose other side is closed
        while piece := os.read(leader, 1000):
            written += piece
    os.close(leader)
    return written.decode()


@pytest.mark.parametrize(
    "args", [("generate", "x", "--draft", "a\x1b[31m"), ("models", "show", "x\x9b\n\x07.gguf"), ("m\x1bx",)]
)
def test_errors_are_one_line_that_steers_nothing(args: tuple[str, ...]) -> None:
    status, out, err = run("", *args)
    assert (status, out) == (2, b"") and err.count(b"\n") == 1
    assert err.decode().removesuffix("\n").isprintable()


INTERRUPTED = [
    # in an import
    "import builtins; real = builtins.__import__\n"
    "def broken(name, *args):\n"
    "    if name == {name!r}: os.kill(os.getpid(), signal.SIGINT)\n"
    "    return real(name, *args)\n"
    "builtins.__import__ = broken",
    # in an import of a library that makes an error of its own of it
    "import builtins; real = builtins.__import__\n"
    "def broken(name, *args):\n"
    "    if name == {name!r}:\n"
    "        try: os.kill(os.getpid(), signal.SIGINT)\n"
    "        except KeyboardInterrupt: raise ImportError('libfoo failed') from None\n"
    "    return real(name, *args)\n"
    "builtins.__import__ = broken",
]


@pytest.mark.parametrize(
    "name", ["outpace.cli.interrupts", "outpace.cli.main", "typer", "outpace.models.method"]
)
@pytest.mark.parametrize("before", INTERRUPTED)
def test_an_interrupt_at_the_start(before: str, name: str) -> None:
    code = STARTED.replace("{before}", before.replace("{name!r}", repr(name)))
    if name.startswith("outpace.cli"):  # from the moment on that the package itself is there
        code = code.replace("sys.argv =", "import outpace.cli; sys.argv =").replace(
            "import outpace.cli;", "sys.argv = ['outpace']; import outpace.cli;"
        )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, preexec_fn=default_interrupts
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")


def default_interrupts() -> None:
    """A shell that runs the tests in the background has them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_interrupt_that_a_destructor_drops_comes_again() -> None:
    code = """
import os, signal, sys, time
from types import SimpleNamespace
import outpace
from outpace.cli.main import main

class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)

def load(source, **options):
    Dropping()
    time.sleep(30)

outpace.load = load
sys.argv = ["outpace", "generate", "x"]
sys.exit(main())
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, preexec_fn=default_interrupts)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")
    assert time.monotonic() - began < 30


def test_other_programs_keep_their_handler() -> None:
    code = (
        "import signal, outpace.cli, outpace.cli.main as m\n"
        "assert m.main(['--version']) == 0\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, preexec_fn=default_interrupts)
