"""Servers under load: tokens per second of all clients together, and how long a first token takes.

Every round starts all servers anew, and each answers all prompts once before it is measured. For every number
of clients they take turns. Each gets the same prompts from so many clients at once, greedily and to a fixed
length; the others wait. `plain` is our server without drafts, `drafted` with what it drafts by itself.
Other servers that speak OpenAI's API join by a command that names {model} and {port}:

    python -m benchmarks.serving --prompts spec_bench.jsonl --limit 1 --clients 1 --clients 8 \\
        --server "llama=llama-server -m {model} --port {port} -np 16"

A prompt begins with a number that no other one has, so that nobody has read it before; drafts that learn from
one answer for the next have done so in the rounds of one start alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2

from benchmarks.side_by_side import model_file
from outpace.bench.prompts import BUILTIN, read_prompts
from outpace.bench.report import markdown_table

START_S = 300


class Load(NamedTuple):
    """One server with so many clients: tokens/s of all, and the median seconds to a first token."""

    tokens_per_s: float
    first_s: float


async def ask(client: httpx2.AsyncClient, prompt: str, max_tokens: int) -> tuple[int, float]:
    """(tokens of the answer, seconds to its first)."""
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, count = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"a server refuses: {(await response.aread()).decode()[:300]}")
        # The client shares the processor with the server: it looks no closer than it has to.
        async for line in response.aiter_lines():
            if not first and '"content":"' in line and '"content":""' not in line:
                first = time.perf_counter() - began
            if '"completion_tokens":' in line:
                count = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
    return count, first


async def load(url: str, prompts: Sequence[str], *, clients: int, max_tokens: int) -> Load:
    """What a server does for so many clients at once, each of which asks when its last answer is there."""
    waiting = iter(prompts)
    done: list[tuple[int, float]] = []

    async def ask_on(client: httpx2.AsyncClient) -> None:
        for prompt in waiting:
            done.append(await ask(client, prompt, max_tokens))

    # llama.cpp's server drops connections that it has said it keeps.
    limits = httpx2.Limits(max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        began = time.perf_counter()
        await asyncio.gather(*(ask_on(client) for _ in range(clients)))
        seconds = time.perf_counter() - began
    tokens = sum(count for count, _ in done)
    return Load(tokens / seconds, statistics.median(first for _, first in done))


@contextmanager
def running(command: str, model: str) -> Iterator[str]:
    """A server's address, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    parts = [part.replace("{model}", model).replace("{port}", str(port)) for part in shlex.split(command)]
    process = subprocess.Popen(parts, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(10 * START_S):
            if process.poll() is not None:
                raise SystemExit(f"{parts[0]} ended with status {process.returncode}")
            try:
                if httpx2.get(f"{url}/health").status_code == 200:
                    break
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def measure(
    commands: dict[str, str],
    model: str,
    prompts: Sequence[str],
    clients: Sequence[int],
    *,
    rounds: int,
    max_tokens: int,
) -> dict[str, dict[int, list[Load]]]:
    """By server and number of clients, a Load of every round."""
    found: dict[str, dict[int, list[Load]]] = {name: {count: [] for count in clients} for name in commands}
    order = list(commands)
    for number in range(rounds):
        with ExitStack() as open_servers:
            urls = {name: open_servers.enter_context(running(commands[name], model)) for name in order}
            for url in urls.values():  # what a server does for the first time does not count
                early = [f"{number}-{place}. {text}" for place, text in enumerate(prompts)]
                asyncio.run(load(url, early, clients=min(8, max(clients)), max_tokens=max_tokens))
            for count in clients:
                # As many prompts for each client; none that was sent before.
                wanted = [prompts[place % len(prompts)] for place in range(max(len(prompts), 2 * count))]
                fresh = [f"{number}-{count}-{place}. {text}" for place, text in enumerate(wanted)]
                for name in order:
                    one = asyncio.run(load(urls[name], fresh, clients=count, max_tokens=max_tokens))
                    found[name][count].append(one)
                    print(f"{name}, {count} clients: {one.tokens_per_s:.1f} tokens/s", file=sys.stderr)
                order = [*order[1:], order[0]]
    return found


def table(found: dict[str, dict[int, list[Load]]]) -> str:
    """Medians over the rounds; ratios are those to the first server in the same round."""
    base = next(iter(found.values()))
    rows = []
    for name, by_count in found.items():
        for count, loads in by_count.items():
            ratios = [
                one.tokens_per_s / other.tokens_per_s for one, other in zip(loads, base[count], strict=True)
            ]
            rows.append(
                [
                    name,
                    str(count),
                    f"{statistics.median(one.tokens_per_s for one in loads):.1f}",
                    f"{statistics.median(ratios):.2f}",
                    f"{statistics.median(one.first_s for one in loads):.3f}",
                ]
            )
    rows.sort(key=lambda row: int(row[1]))
    return markdown_table(
        ["server", "clients", "tokens/s", "ratio", "first token s"], rows, num_text_columns=1
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=Path, default=BUILTIN)
    parser.add_argument("--limit", type=int, default=1, help="prompts of a category")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--draft", default=None, help="of `drafted`; its own choice if left out")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=COMMAND")
    given = parser.parse_args(arguments)
    command = shlex.quote(str(Path(sys.executable).with_name("outpace")))
    ours = f"{command} serve -m {{model}} --port {{port}} --alias default"
    if given.threads:
        ours += f" --threads {given.threads}"
    drafted = ours if given.draft is None else f"{ours} --draft {shlex.quote(given.draft)}"
    commands = {"plain": f"{ours} --draft none", "drafted": drafted}
    commands |= dict(one.split("=", 1) for one in given.server)
    model = str(model_file(given.model))
    prompts = [prompt.text for prompt in read_prompts(given.prompts, limit=given.limit)]
    found = measure(
        commands,
        model,
        prompts,
        given.clients or [1, 2, 4, 8, 16],
        rounds=given.rounds,
        max_tokens=given.max_tokens,
    )
    print(table(found))


if __name__ == "__main__":
    main()
