"""GGUF files as values: written, taken apart and damaged field by field.

Independent of the reader under test; the format is ggml-org/ggml docs/gguf.md, version 3.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q8_0": (8, 32, 34)}
ALIGNMENT = 32
_EXTREMES = (0, 1, 2, 255, 1 << 15, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 61, 1 << 63, (1 << 64) - 1)
_NUMBERS = (0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), 1e-45)


@dataclass
class GGUF:
    """entries: [key, type, value], for an array (element type, list); tensors: [name, dims, type, offset]."""

    entries: list[list[Any]] = field(default_factory=list)
    tensors: list[list[Any]] = field(default_factory=list)
    data: bytes = b""

    def add(self, key: str, kind: int, value: Any) -> None:
        self.entries.append([key, kind, value])

    def add_tensor(self, name: str, dims: Sequence[int], kind: int, raw: bytes) -> None:
        """Dims with the contiguous one first."""
        self.tensors.append([name, list(dims), kind, len(self.data)])
        self.data += raw + b"\0" * (-len(raw) % ALIGNMENT)

    def to_bytes(self) -> bytes:
        out = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.entries))]
        for key, kind, value in self.entries:
            out += [_string(key), struct.pack("<I", kind & 0xFFFFFFFF), _value(kind, value)]
        for name, dims, kind, offset in self.tensors:
            out += [_string(name), struct.pack("<I", len(dims)), *(_scalar(10, dim) for dim in dims)]
            out += [struct.pack("<I", kind & 0xFFFFFFFF), _scalar(10, offset)]
        head = b"".join(out)
        return head + b"\0" * (-len(head) % ALIGNMENT) + self.data

    @classmethod
    def from_bytes(cls, raw: bytes) -> GGUF:
        """The inverse, for undamaged files."""
        at = 24
        num_tensors, num_entries = struct.unpack_from("<QQ", raw, 8)

        def scalar(kind: int) -> Any:
            nonlocal at
            form = struct.Struct("<" + CODES[kind])
            at += form.size
            return form.unpack_from(raw, at - form.size)[0]

        def string() -> bytes:
            nonlocal at
            length = scalar(10)
            at += length
            return raw[at - length : at]

        def value(kind: int) -> Any:
            if kind == ARRAY:
                inner, count = scalar(4), scalar(10)
                return inner, [value(inner) for _ in range(count)]
            return string() if kind == STRING else scalar(kind)

        file = cls()
        for _ in range(num_entries):
            key, kind = string(), scalar(4)
            file.entries.append([key, kind, value(kind)])
        for _ in range(num_tensors):
            name = string()
            dims = [scalar(10) for _ in range(scalar(4))]
            file.tensors.append([name, dims, scalar(4), scalar(10)])
        file.data = raw[at + -at % ALIGNMENT :]
        return file


def _string(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _scalar(kind: int, value: Any) -> bytes:
    """Any value as any type: a whole number is cut to the bits that there are."""
    code = CODES.get(kind, "Q")
    if code in "fd":
        number = float(value) if isinstance(value, int | float) else 0.0
        if code == "f" and abs(number) > 3e38:
            number = float("inf")
        return struct.pack("<" + code, number)
    whole = int(value) if isinstance(value, int) or (isinstance(value, float) and abs(value) < 1e300) else 0
    size = struct.calcsize(code)
    return (whole & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _string(value if isinstance(value, str | bytes) else str(value))
    if kind == ARRAY:
        inner, items = value if isinstance(value, tuple) else (4, [])
        return struct.pack("<IQ", inner & 0xFFFFFFFF, len(items)) + b"".join(
            _value(inner, one) for one in items
        )
    return _scalar(kind, value)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """One field of a file changed: a value, a type, a count, a name, a place, a shape or a weight."""
    file = GGUF.from_bytes(raw)
    tensors, entries = file.tensors, file.entries
    what = rng.randrange(12)
    if what < 5 and entries:
        entry = rng.choice(entries)
        entry[1:] = _other_value(entry[1], entry[2], rng)
    elif what == 5 and entries:
        entries.remove(rng.choice(entries))
    elif what == 6 and entries:
        entries.append([rng.choice(entries)[0], *rng.choice(entries)[1:]])
    elif what == 7 and tensors:
        tensor = rng.choice(tensors)
        dims = tensor[1]
        place = rng.randrange(len(dims))
        change = rng.randrange(4)
        if change == 0:
            dims[place] = rng.choice(_EXTREMES)
        elif change == 1:
            dims[place] = max(1, dims[place] + rng.choice((-32, -1, 1, 32)))
        elif change == 2:
            dims.reverse()
        else:
            dims.append(rng.choice((1, 1 << 40)))
    elif what == 8 and tensors:
        tensor = rng.choice(tensors)
        tensor[2] = rng.choice((0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30, 10, 99))
    elif what == 9 and tensors:
        tensor = rng.choice(tensors)
        tensor[3] = rng.choice([other[3] for other in tensors] + list(_EXTREMES))
    elif what == 10 and tensors:
        change = rng.randrange(3)
        if change == 0:
            tensors.remove(rng.choice(tensors))
        elif change == 1:
            tensors.append(list(rng.choice(tensors)))
        else:
            rng.choice(tensors)[0] = rng.choice((b"", b"\x1b[31m", b"blk.99999.attn_q.weight", tensors[0][0]))
    elif len(file.data) > 8:
        data = bytearray(file.data)
        at = rng.randrange(len(data) - 4)
        data[at : at + 4] = rng.choice(
            (b"\0\0\xc0\x7f", b"\xff\xff\x7f\x7f", b"\0\x7c\0\x7c", rng.randbytes(4))
        )
        file.data = bytes(data)
    return file.to_bytes()


def _other_value(kind: int, value: Any, rng: random.Random) -> list[Any]:
    """[type, value]: mostly of the same type."""
    if rng.random() < 0.15:
        kind = rng.choice([*CODES, STRING, ARRAY, 13])
    if kind == STRING:
        texts = (b"", b"\xff\xfe", b"\x1b[2J", b"x" * 5000, b"llama", b"gpt2", b"{{ 1/0 }}", b"\xed\xa0\x80")
        return [kind, rng.choice(texts)]
    if kind == ARRAY and isinstance(value, tuple):
        inner, items = value[0], list(value[1])
        change = rng.randrange(7)
        if change == 0:
            items = items[: rng.randrange(len(items) + 1)]
        elif change == 1:
            items = items * 2
        elif change == 2 and items:
            items[rng.randrange(len(items))] = _other_value(inner, None, rng)[1]
        elif change == 3 and items:
            items[rng.randrange(len(items))] = rng.choice(items)
        elif change == 4:
            items = [rng.choice(items)] * len(items) if items else [0]
        elif change == 5:
            inner = rng.choice([*CODES, STRING, ARRAY, 13])
        else:
            rng.shuffle(items)
        return [kind, (inner, items)]
    if kind == ARRAY:
        return [kind, (rng.choice([*CODES, STRING]), [0, 1, 2])]
    if kind in (6, 12):
        return [kind, rng.choice(_NUMBERS)]
    return [
        kind,
        rng.choice(_EXTREMES)
        if rng.random() < 0.7 or not isinstance(value, int)
        else value + rng.choice((-1, 1)),
    ]
