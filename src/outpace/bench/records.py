"""The record of one generation, and files of them: JSON lines, the only thing that tables and plots read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

from outpace.core.errors import OutpaceError
from outpace.core.steps import Exactness
from outpace.core.traits import Numerics
from outpace.files.json_files import json_value
from outpace.files.regular import open_regular, read_text

if TYPE_CHECKING:
    from outpace.engine.request import Generation
    from outpace.models.method import Method

Record = dict[str, Any]

# What makes two records the same measurement: a file that already holds it is not measured again.
KEY = (
    "model", "draft", "tree", "rule", "sampling", "max_tokens", "threads", "prompt_id", "category",
    "prompt_digest", "rows", "round",
)  # fmt: skip
_FIGURES = (
    "tokens_per_s", "mean_accepted_length", "target_calls", "num_passes", "num_drafted", "wall_s", "prompt_s",
    "draft_s", "score_s",
)  # fmt: skip
# What the fields mean where a record of an older version has none.
OLDER: Mapping[str, Any] = {
    "tree": None, "rule": "match", "numerics": "bitwise", "num_passes": 0, "num_tried_at": [],
    "num_kept_at": [], "rows": 1,
    "round": 0,
}  # fmt: skip
_COUNTS = ("num_tried_at", "num_kept_at")


def generation_record(
    generation: Generation,
    *,
    model: str,
    method: Method,
    sampling: Mapping[str, Any],
    identical_to_plain: bool | None = None,
) -> Record:
    """One generation as a JSON object; times in seconds, tokens_per_s of the decode phase.

    `identical_to_plain` is None where nobody decoded plainly to compare.
    """
    stats = generation.stats
    return {
        "model": model,
        "draft": method.draft,
        "tree": method.tree,
        "rule": method.rule,
        "sampling": dict(sampling),
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "wall_s": stats.wall_s,
        "tokens_per_s": stats.tokens_per_s,
        "target_calls": stats.target_calls,
        "mean_accepted_length": stats.mean_accepted_length,
        "num_passes": stats.num_passes,
        "passes_per_token": stats.passes_per_token,
        "draft_s": stats.draft_s,
        "score_s": stats.score_s,
        "exactness": generation.exactness,
        "numerics": generation.numerics,
        "identical_to_plain": identical_to_plain,
        "text": generation.text,
        "token_ids": list(generation.token_ids),
        "finish_reason": generation.finish_reason,
        "num_drafted": stats.num_drafted,
        "num_accepted": stats.num_accepted,
        "num_tried_at": list(stats.num_tried_at),
        "num_kept_at": list(stats.num_kept_at),
        "prompt_s": stats.prompt_s,
        "time_to_first_token_s": stats.time_to_first_token_s,
    }


def decode_s(record: Mapping[str, Any]) -> float:
    """Seconds behind the prompt's own call, as `tokens_per_s` counts them; 0.0 where nothing followed it."""
    return float(record["wall_s"] - record["time_to_first_token_s"]) if record["target_calls"] else 0.0


def record_key(record: Mapping[str, Any]) -> str:
    """The measurement that a bench record is of, as one comparable text."""
    return json.dumps([record.get(name, OLDER.get(name)) for name in KEY], sort_keys=True)


def _wrong_field(record: Record) -> str | None:
    """The first field that is not what `generation_record` writes, of those that tables read."""
    for name in _FIGURES:
        value = record.get(name, OLDER.get(name))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
            return name
    for name in _COUNTS:
        counts = record.get(name, OLDER[name])
        if not isinstance(counts, list) or not all(type(n) is int and 0 <= n < 1 << 50 for n in counts):
            return name
    if record.get("exactness") not in get_args(Exactness):
        return "exactness"
    if record.get("numerics", "bitwise") not in get_args(Numerics):
        return "numerics"
    if not isinstance(record.get("identical_to_plain"), bool):
        return "identical_to_plain"
    return None if isinstance(record.get("token_ids"), list) else "token_ids"


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file. A last line that a killed run left half written is passed over."""
    whole, _, _ = read_text(path, "the records").rpartition("\n")
    for number, line in enumerate(whole.split("\n") if whole else [], start=1):
        try:
            record = json_value(line, file_names=True)  # of models
        except ValueError as error:
            raise OutpaceError(f"{path}, line {number}: not a JSON record") from error
        if not isinstance(record, dict):
            raise OutpaceError(f"{path}, line {number}: not a JSON record")
        yield {**OLDER, **record}


class RecordFile:
    """A JSONL file that is only ever appended to, one whole line at a time, and remembers what it holds.

    Opening it cuts off a half-written last line. `None` as path keeps records in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd: int | None = None
        self._known: dict[str, Record] = {}

    def __enter__(self) -> RecordFile:
        if self._path is None:
            return self
        if self._path.exists():
            self._known = {record_key(record): record for record in read_records(self._path)}
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise OutpaceError(f"cannot write records to {self._path}: {error.strerror}") from error
        with open_regular(self._path) as file:
            data = file.read()
        if data and not data.endswith(b"\n"):
            os.ftruncate(self._fd, data.rfind(b"\n") + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def find(self, record: Mapping[str, Any]) -> Record | None:
        """The record that the file holds of the same measurement, if it does.

        OutpaceError where that record lacks what tables read.
        """
        found = self._known.get(record_key(record))
        if found is not None and (wrong := _wrong_field(found)):
            raise OutpaceError(
                f"{self._path}: the record of prompt {found.get('prompt_id')!r:.40} with "
                f"{found.get('draft')!r:.40} has no usable {wrong}; remove its line to measure anew"
            )
        return found

    def append(self, record: Record) -> None:
        """Add a record; it is on the file system when this returns."""
        self._known[record_key(record)] = record
        if self._fd is None:
            return
        line = json.dumps(record).encode() + b"\n"  # ASCII: a name may be no Unicode
        try:
            # One write call: a reader, or a run that is killed here, never leaves two lines mixed.
            written = os.write(self._fd, line)
        except OSError as error:
            raise OutpaceError(f"cannot write records to {self._path}: {error.strerror}") from error
        if written != len(line):
            raise OutpaceError(f"cannot write records to {self._path}: no space left")
