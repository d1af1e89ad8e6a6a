"""`outpace` as a process of its own: Ctrl-C in mid-stream, and a reader that goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# A model whose answer never ends, in place of outpace.load.
ENDLESS = """
import itertools, signal, sys, time
import outpace
from outpace.cli.main import main

# A shell that runs the tests in the background has them ignore Ctrl-C, and this process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Model:
    own_draft = "ngram"
    def stream(self, prompt, **request):
        for number in itertools.count():
            yield f"{number} "
            time.sleep(0.005)

outpace.load = lambda source, **options: Model()
sys.exit(main(["generate", "count"]))
"""


@contextmanager
def endless() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_some(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return os.read(process.stdout.fileno(), 4)


def test_interrupt_ends_the_line_and_keeps_what_was_said() -> None:
    with endless() as process:
        said = read_some(process)
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b"interrupted\n"
    text = said + rest
    assert text.endswith(b" \n")
    numbers = text.split()
    assert numbers == [str(number).encode() for number in range(len(numbers))]


def test_a_closed_pipe_ends_it_quietly() -> None:
    with endless() as process:
        assert process.stdout is not None and process.stderr is not None
        read_some(process)
        process.stdout.close()
        assert process.wait(timeout=30) == 1
        assert process.stderr.read() == b""


def test_a_short_answer_into_a_closed_pipe() -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from outpace.cli.main import main; sys.stdin.read(); sys.exit(main(['--help']))",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=30) == 1
    assert process.stderr.read() == b""
    process.stderr.close()
