"""results.jsonl: what an evaluation has measured, one JSON object a line, and all that the report reads.

kind "run"      a command that measured: hardware, versions, date
kind "model"    a model that pictures are written with: its training, its bits on the test pictures
kind "picture"  a test picture by one setting, decoded in a batch: tokens, calls, squared errors
kind "time"     a test picture by one setting, decoded alone, beside greedy a moment before
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from outpace.core.errors import OutpaceError

RESULTS = "results.jsonl"
Record = dict[str, Any]


class Results:
    """The records of a file, which is only ever appended to. A half-written last line is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
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

    def add(self, records: Sequence[Record]) -> None:
        """Records that belong together: all of them are written, or in a kill at worst those at the start."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(lines)
        self.records += records

    def of(self, kind: str, **values: Any) -> list[Record]:
        """The records of a kind that have these values."""
        return [
            record
            for record in self.records
            if record["kind"] == kind and all(record.get(key) == value for key, value in values.items())
        ]
