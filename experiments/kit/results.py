"""results.jsonl: what an evaluation has measured, one JSON object a line, and all that its report reads.

Every record has a "kind"; an experiment's `evaluate.py` says which there are.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from outpace.core.errors import OutpaceError

RESULTS = "results.jsonl"
Record = dict[str, Any]


class Results:
    """The records of a file, which is only ever appended to. A half-written last line is cut off.

    run  what to write before the first new record: who measures.
    """

    def __init__(self, path: Path, run: Record | None = None) -> None:
        self._path = path
        self._run = run
        self.records: list[Record] = []
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            try:
                self.records = [json.loads(line) for line in whole.splitlines()]
            except ValueError as error:
                raise OutpaceError(f"{path} is not JSON lines ({error}); remove it to measure anew") from None
            if len(whole) < len(data):
                os.truncate(path, len(whole))

    def add(self, *records: Record) -> None:
        """Records that belong together: all of them are written, or in a kill at worst those at the start."""
        added = [*records] if self._run is None else [self._run, *records]
        lines = "".join(json.dumps(record) + "\n" for record in added)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(lines)
        self.records += added
        self._run = None

    def of(self, kind: str, **values: Any) -> list[Record]:
        """The records of a kind that have these values."""
        return [
            record
            for record in self.records
            if record["kind"] == kind and all(record.get(key) == value for key, value in values.items())
        ]

    def knows(self, model: str, fingerprint: str) -> bool:
        """Whether there is a record of kind "model" of this one; another one of its name is refused."""
        known = self.of("model", model=model)
        if known and known[0]["fingerprint"] != fingerprint:
            raise OutpaceError(f"{RESULTS} has results of another model {model}; remove it to measure anew")
        return bool(known)


def run_record(command: str, device: str) -> Record:
    """Who measures, and with what: a record of kind "run"."""
    try:
        cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        cpu_lines = []
    names = (line.partition(":")[2].strip() for line in cpu_lines if line.startswith("model name"))
    gpu = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else None
    return {
        "kind": "run",
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": next(names, platform.processor() or platform.machine()),
        "num_cpus": os.cpu_count(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
        "outpace": version("outpace"),
    }


def check_device(name: str) -> None:
    """Raise an OutpaceError for a device that torch does not have here."""
    try:
        torch.zeros((), device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OutpaceError(f"the device {name!r} cannot be used: {reason}; accepted is cpu") from error
