"""Damage to files, by what they are made of: bytes, JSON, arrays, archives."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from tests.fuzz import gguf_file

Files = dict[str, bytes]
Damage = Callable[[bytes, random.Random], bytes]

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    300,
    2**31 - 1,
    2**31,
    2**32,
    -(2**31),
    2**53 + 1,
    2**63,
    2**64,
    10**40,
    10**400,
    0.5,
    1e-300,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "a",
    "x" * 3000,
    "\x1b[31m",
    "\ud800",
    "a\nb",
    "\u2028",
    "nul\0",
    "..",
    "/etc/passwd",
    "{{ 1/0 }}",
    [],
    {},
    [[]],
    [0] * 50,
    ["a", 1, None],
    {"a": {}},
    {"": 0},
    {"0": 1},
)
_INTERESTING_BYTES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\n", b'"', b"{", b"[", b"\\u", b"\x1b[2J")
_EXTREMES = (0, 1, 127, 255, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1)


def damaged(files: Files, rng: random.Random) -> Files:
    """A copy with one to three changes, in one file mostly."""
    files = dict(files)
    names = sorted(files)
    name = rng.choice(names)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.2:
            name = rng.choice(names)
        suffix = name.rpartition(".")[2]
        kinds = DAMAGE.get(suffix, (some_bytes,))
        damage = rng.choice(kinds)
        try:
            files[name] = damage(files[name], rng)
        except Exception:  # damaged before, so that it cannot be taken apart any more
            files[name] = some_bytes(files[name], rng)
    if len(names) > 1 and rng.random() < 0.02:
        del files[rng.choice(names)]
    return files


def some_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Bits, bytes, fields of 4 or 8 bytes, cuts, repetitions: at the beginning half of the times."""
    if not raw:
        return rng.choice(_INTERESTING_BYTES)
    reach = len(raw) if rng.random() < 0.5 else min(len(raw), 512)
    at, what = rng.randrange(reach), rng.randrange(8)
    if what == 0:
        return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
    if what == 1:
        return raw[:at] + rng.randbytes(rng.randrange(1, 9)) + raw[at + 8 :]
    if what == 2:
        form, bits = rng.choice((("<I", 32), ("<Q", 64)))
        field = struct.pack(form, rng.choice(_EXTREMES) & ((1 << bits) - 1))
        return raw[:at] + field + raw[at + len(field) :]
    if what == 3:
        return raw[: rng.randrange(len(raw))]
    if what == 4:
        return raw[:at] + rng.choice(_INTERESTING_BYTES) + raw[at:]
    if what == 5:
        return raw[:at] + raw[at + rng.randrange(1, 65) :]
    if what == 6:
        begin = rng.randrange(len(raw))
        return raw[:at] + raw[begin : begin + rng.randrange(1, 257)] + raw[at:]
    return raw + rng.randbytes(rng.randrange(1, 65))


def json_text(raw: bytes, rng: random.Random) -> bytes:
    """One node of a JSON text changed."""
    value = json.loads(raw)
    holder, key = _somewhere(value, rng)
    if holder is None:
        return json.dumps(rng.choice(VALUES)).encode()
    here, what = holder[key], rng.randrange(12)
    if what < 4:
        holder[key] = rng.choice(VALUES)
    elif what == 4:
        del holder[key]
    elif what == 5:
        holder[key] = [here, here]
    elif what == 6 and isinstance(holder, dict):
        holder[rng.choice(("", "type", "id", "0", "\x1b[0m", key + "_"))] = here
    elif what == 7:
        other, place = _somewhere(value, rng)
        if other is not None:
            holder[key] = json.loads(json.dumps(other[place]))
    elif what == 8:
        holder[key] = _tweaked(here, rng)
    elif what == 9:
        marked = "\uffffmarked"
        holder[key] = marked
        depth = rng.choice((50, 900, 5000))
        deep = rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth))
        return json.dumps(value).replace(json.dumps(marked), deep).encode()
    elif what == 10 and isinstance(holder, dict):
        twice = json.dumps({key: rng.choice(VALUES)})[1:-1]
        return (json.dumps(value)[:-1] + ("," if value else "") + twice + "}").encode()
    else:
        holder[key] = _tweaked(here, rng)
    return json.dumps(value).encode()


def _somewhere(value: Any, rng: random.Random) -> tuple[Any, Any]:
    """(container, key) of a node, near the top as likely as far below; (None, None) where there is none."""
    found: tuple[Any, Any] = (None, None)
    while isinstance(value, dict | list) and value and rng.random() < 0.8:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        found, value = (value, key), value[key]
    return found


def _tweaked(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, value << 20, float(value), str(value)))
    if isinstance(value, float):
        return rng.choice((value * 1e10, -value, value / 1e10, 0.0))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(("", "\0", "\ud800", "é", " ", "{", "%}", "\\")) + value[at + 1 :]
    if isinstance(value, list):
        return rng.choice((value * 2, value[::-1], value[1:], [*value, None]))
    return {str(k)[::-1]: v for k, v in value.items()}


def json_lines(raw: bytes, rng: random.Random) -> bytes:
    """One line of JSON changed, or repeated, or run together with the next."""
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    if rng.random() < 0.2:
        lines[at:at] = [rng.choice((b"", b"{", b"null", b"[]", b"\xff", lines[at] * 2))]
    else:
        lines[at] = json_text(lines[at], rng)
    return b"\n".join(lines)


def safetensors_header(raw: bytes, rng: random.Random) -> bytes:
    """The header changed as JSON, its length fitting."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json_text(raw[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


def safetensors_data(raw: bytes, rng: random.Random) -> bytes:
    """Numbers changed, to none mostly."""
    (length,) = struct.unpack("<Q", raw[:8])
    data = bytearray(raw)
    at = rng.randrange(8 + length, len(raw) - 4)
    data[at : at + 4] = rng.choice(
        (b"\0\0\xc0\x7f", b"\xc0\x7f\xc0\x7f", b"\0\x7c\0\x7c", b"\xff\xff\x7f\x7f")
    )
    return bytes(data)


def sealed(raw: bytes, rng: random.Random) -> bytes:
    """The JSON header of our own files or the data behind it changed, lengths and checksums fitting."""
    (length,) = struct.unpack("<Q", raw[8:16])
    fields = json.loads(raw[16 : 16 + length])
    places = [tensor["offset"] for tensor in fields.get("tensors", {}).values()]
    start = min(places, default=-(-(20 + length) // 64) * 64)
    text, data = raw[16 : 16 + length], raw[start:]
    if rng.random() < 0.7:
        text = json_text(text, rng)
    elif len(data) > 8:
        at = rng.randrange(len(data) - 4)
        new = rng.choice((rng.randbytes(4), b"\xff" * 4, b"\0\0\xc0\x7f", b"\xff\xff\xff\x7f"))
        data = data[:at] + new + data[at + 4 :]
    whole = _joined(raw[:8], text, data, start)
    try:
        fields = json.loads(text)
        if "data_crc" in fields:
            fields["data_crc"] = zlib.crc32(data)
        if isinstance(sums := fields.get("checksums"), list):
            text = json.dumps(fields).encode()
            body = _joined(raw[:8], text, data, start)[20 + len(text) :]
            ends = [len(body) * i // len(sums) for i in range(len(sums) + 1)]
            fields["checksums"] = [f"{zlib.crc32(body[a:b]):08x}" for a, b in pairwise(ends)]
    except (ValueError, AttributeError, TypeError, ZeroDivisionError, RecursionError):
        return whole  # no header any more
    return _joined(raw[:8], json.dumps(fields).encode(), data, start)


def _joined(magic: bytes, text: bytes, data: bytes, start: int) -> bytes:
    head = magic + struct.pack("<Q", len(text)) + text + struct.pack("<I", zlib.crc32(text))
    return head.ljust(start, b"\0") + data


def arrays(raw: bytes, rng: random.Random) -> bytes:
    """One array of an npz file changed in type, shape or values, the archive sound."""
    with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
        found = {name: stored[name] for name in stored.files}
    name = rng.choice(sorted(found))
    array, what = found[name], rng.randrange(8)
    if what == 0:
        found[name] = array.astype(rng.choice(("f4", "i8", "u1", "?", "U5", "c8")))
    elif what == 1:
        found[name] = array.reshape(-1)[: rng.randrange(array.size + 1)]
    elif what == 2:
        found[name] = array[..., None]
    elif what == 3:
        found[name] = np.full_like(array, rng.choice((0, 1, 3)))
    elif what == 4 and array.dtype.kind in "iuf":
        info = np.finfo(array.dtype) if array.dtype.kind == "f" else np.iinfo(array.dtype)
        array = array.copy().reshape(-1)
        if array.size:
            array[rng.randrange(array.size)] = rng.choice((info.max, info.min, 0))
        found[name] = array.reshape(found[name].shape)
    elif what == 5:
        del found[name]
    elif what == 6:
        found[name] = np.tile(array, 2) if array.ndim else np.array([array, array])
    else:
        found[name] = array * 0 - 1 if array.dtype.kind in "if" else array[:0]
    out = io.BytesIO()
    save = np.savez_compressed if rng.random() < 0.1 else np.savez  # what is compressed is refused at once
    save(out, allow_pickle=False, **found)
    return out.getvalue()


def archive(raw: bytes, rng: random.Random) -> bytes:
    """A member of a zip file changed, the archive sound."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content, what = old.read(name), rng.randrange(6)
            if what == 0:
                content = (content * 1000)[:2_000_000]  # which takes next to no room in the archive
            elif what < 4:
                content = some_bytes(content, rng)
            new.writestr("../" + name if rng.random() < 0.1 else name, content)
    return out.getvalue()


def template(raw: bytes, rng: random.Random) -> bytes:
    """A Jinja text with a piece more."""
    text = raw.decode()
    pieces = (
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ 10**10**6 }}",
        "{{ m.content.x.y }}",
        "{% set x = [] %}",
        "{{ messages[99].role }}",
        "{{ messages | tojson(indent=10**6) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ''.__class__.__mro__ }}",
        "{% include 'x' %}",
        "{{ raise_exception('\x1b[31m') }}",
        "{{ strftime_now('%' * 1000) }}",
        "{% for a in messages %}{% for b in messages %}{{ a }}{% endfor %}{% endfor %}",
        "{{ 'a' | center(10**9) }}",
        "{{ '%099999999d' % 1 }}",
        "{{ '{:>99999999}'.format(1) }}",
        "{{ namespace(a=1).b }}",
        "{{ 1 // 0 }}",
        "{{ undefined.x }}",
        "{%",
        "}}",
        "{{ tools | list }}",
        "{{ lipsum(n=10**6) }}",
        "{{ cycler }}",
        "{{ range(10**18) | list }}",
        "{{ 'a'.join(range(10**8)) }}",
        "{{ '\ufffd' * 10 }}",
    )
    at = rng.randrange(len(text) + 1)
    return (
        text[:at] + rng.choice(pieces) + text[at if rng.random() < 0.7 else at + rng.randrange(20) :]
    ).encode()


DAMAGE: dict[str, tuple[Damage, ...]] = {
    "json": (json_text, json_text, json_text, some_bytes),
    "jsonl": (json_lines, json_lines, some_bytes),
    "safetensors": (safetensors_header, safetensors_header, safetensors_data, some_bytes),
    "gguf": (gguf_file.damaged, gguf_file.damaged, gguf_file.damaged, some_bytes),
    "npz": (arrays, arrays, some_bytes),
    "outpace": (sealed, sealed, some_bytes),
    "datastore": (sealed, sealed, some_bytes),
    "whl": (archive, some_bytes),
    "jinja": (template, template, some_bytes),
}
