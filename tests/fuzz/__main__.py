"""Damaged files for every reader of the package, in processes of their own, until the time is over.

Prints a table by reader and ends with status 1 where anything was found. Finds are kept below --out, with
the files that show them; the same --seed gives the same cases, and --first goes on behind an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from outpace.bench.report import markdown_table
from tests.fuzz.cases import LIMIT_S, files_of, write_files
from tests.fuzz.readers import READERS

BATCH = 100_000  # numbers that a worker gets; it is stopped long before
MOST_S = 60.0  # of one worker; less in short campaigns, so that every reader has its turn
START_S = 120.0  # a worker may take to import and to make its seeds
ROOM = 8 << 30  # of address space: beyond it an allocation fails, which is a find too
KINDS = ("refused", "accepted", "signal", "hang", "memory", "traceback", "message")


class Lines:
    """What a process writes, line by line, with a time to wait."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = b""

    def next(self, limit_s: float) -> str | None:
        """The next line; "" where the process has ended, None where nothing comes in time."""
        while b"\n" not in self._seen:
            if not select.select([self._descriptor], [], [], limit_s)[0]:
                return None
            more = os.read(self._descriptor, 1 << 16)
            if not more:
                return ""
            self._seen += more
        line, _, self._seen = self._seen.partition(b"\n")
        return line.decode()


class Campaign:
    """Counts by reader and kind, and the finds. Batches of all readers take turns."""

    def __init__(
        self, readers: list[str], *, seed: int, first: int, out: Path, seconds: float, jobs: int
    ) -> None:
        self.readers, self.seed, self.out = readers, seed, out
        self.until = time.monotonic() + seconds
        self._slice_s = min(MOST_S, seconds * jobs / (4 * len(readers)))
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.slowest: dict[str, float] = defaultdict(float)
        self.next = dict.fromkeys(readers, first)
        self.spent = dict.fromkeys(readers, 0.0)
        self._known: set[tuple[str, str, str]] = set()
        self._lock = Lock()

    def work(self) -> None:
        """One lane: whichever reader has had the least time goes next."""
        while time.monotonic() < self.until:
            with self._lock:
                reader = min(self.readers, key=lambda name: self.spent[name])
                first = self.next[reader]
                self.next[reader] += BATCH
                self.spent[reader] += self._slice_s  # so that the other lanes take another one
            began = time.monotonic()
            end = first + BATCH
            while first < end and time.monotonic() < self.until:
                first = self._batch(reader, first, end)
            with self._lock:
                self.spent[reader] += time.monotonic() - began - self._slice_s

    def _batch(self, reader: str, first: int, end: int) -> int:
        """Runs cases until one ends its worker, which is told by the next, or the time of a slice is over."""
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.worker",
            reader,
            *map(str, (self.seed, first, end, ROOM)),
        ]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
        assert worker.stdout is not None
        lines = Lines(worker.stdout.fileno())
        try:
            if lines.next(START_S) != "ready":
                raise SystemExit(f"the worker of {reader} does not start (status {worker.wait()})")
            until = min(self.until, time.monotonic() + self._slice_s)
            while time.monotonic() < until:
                line = lines.next(LIMIT_S)
                if not line:
                    break
                at = json.loads(line)["begun"]
                # The machine may be busy: what counts is measured inside.
                line = lines.next(3 * LIMIT_S)
                if line is None:
                    self._count(reader, at, "hang", f"still running after {3 * LIMIT_S:.0f} s")
                    return at + 1
                if not line:
                    self._count(reader, at, "signal", f"the worker ended with status {worker.wait()}")
                    return at + 1
                said = json.loads(line)
                self.slowest[reader] = max(self.slowest[reader], said["seconds"])
                self._count(reader, at, said["kind"], said["detail"])
            return end
        finally:
            worker.kill()
            worker.wait()
            worker.stdout.close()

    def _count(self, reader: str, number: int, kind: str, detail: str) -> None:
        with self._lock:
            self.counts[reader][kind] += 1
            if kind in ("refused", "accepted"):
                return
            lines = detail.strip().splitlines()
            place = next((line.strip() for line in reversed(lines) if "src/outpace" in line), "")
            name = f"{kind}: {lines[-1] if lines else ''}"[:200]
            key = (reader, place, name[:60])
            if key in self._known:
                return
            self._known.add(key)
        print(f"{reader} case {number}: {name} {place}", flush=True)
        folder = self.out / reader.replace(" ", "_") / f"{kind}-{self.seed}-{number}"
        write_files(folder, files_of(reader, self.seed, number))
        (folder / "DETAIL.txt").write_text(detail, errors="backslashreplace")

    def table(self) -> str:
        """Cases by reader and kind."""
        lines = []
        for name in [*self.readers, "all"]:
            counts = sum(self.counts.values(), Counter()) if name == "all" else self.counts[name]
            slowest = max(self.slowest.values(), default=0.0) if name == "all" else self.slowest[name]
            cells = [str(counts[kind]) for kind in KINDS]
            lines.append((name, str(counts.total()), *cells, f"{slowest:.2f} s"))
        return markdown_table(("reader", "cases", *KINDS, "slowest"), lines, num_text_columns=1)

    def num_finds(self) -> int:
        return sum(counts[kind] for counts in self.counts.values() for kind in KINDS[2:])


def main() -> int:
    """The status: 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--jobs", type=int, default=2, help="workers side by side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each reader")
    parser.add_argument(
        "--reader", action="append", choices=sorted(READERS), help="this one alone; may be repeated"
    )
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where finds are kept")
    given = parser.parse_args()
    readers = [name for name in given.reader or READERS if READERS[name].runs_here()]
    for name in sorted(set(given.reader or READERS) - set(readers)):
        print(f"{name} is left out: it needs {', '.join(READERS[name].needs)}")
    campaign = Campaign(
        readers,
        seed=given.seed,
        first=given.first,
        out=given.out,
        seconds=given.seconds,
        jobs=given.jobs,
    )
    with ThreadPoolExecutor(given.jobs) as lanes:
        for lane in [lanes.submit(campaign.work) for _ in range(given.jobs)]:
            lane.result()
    print(campaign.table())
    print(f"go on with --first {max(campaign.next.values())}")
    return int(campaign.num_finds() > 0)


if __name__ == "__main__":
    sys.exit(main())
