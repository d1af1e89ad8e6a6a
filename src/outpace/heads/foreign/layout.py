"""What a folder of foreign heads is found to be, and what of its tensors is absent, misshapen or unread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import FormatError
from outpace.files.raw import RawTensor, RawTensors
from outpace.heads.dflash import METHOD as DFLASH
from outpace.heads.dflash import DFlashConfig
from outpace.heads.eagle import METHOD as EAGLE
from outpace.heads.eagle import EagleConfig
from outpace.heads.folder import MOST
from outpace.heads.medusa import METHOD as MEDUSA
from outpace.heads.medusa import MedusaConfig

LARGEST: Mapping[str, tuple[type[np.unsignedinteger], int, int]] = {
    "F32": (np.uint32, 0x7FFFFFFF, 0x477FE000),
    "F16": (np.uint16, 0x7FFF, 0x7BFF),
    "BF16": (np.uint16, 0x7FFF, 0x477F),
}
"""Float types that are read: as whole numbers of this type, of which these bits are all but the sign, and the
largest that `heads/folder.py` reads, MOST."""
WHOLE: Mapping[str, type[np.signedinteger]] = {"I64": np.int64, "I32": np.int32}
PIECE = 16 << 20

Fault = tuple[str, str]
"""(what kind, what of it), as `outpace heads doctor` prints them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor that we read.

    name   what the file calls it.
    shape  as it is expected there.
    rows   those that are taken, in this order; None for all as they lie.
    """

    name: str
    shape: tuple[int, ...]
    rows: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A folder of foreign heads.

    what        in words.
    config      ours, without a target. The taps of an EAGLE-3 layer are empty texts where the number of the
                target's layers decides them.
    vocab_size  V, of the target.
    target      what the checkpoint calls that; "" where it does not say.
    wanted      by our names.
    ids         i64[M], ascending: the drafted tokens; None for all, or where the faults say why not.
    known       names in the file that nobody needs to read: the target's own tensors, and what is computed.
    faults      of the fields and of the drafted tokens.
    notes       what else to say.
    """

    what: str
    config: EagleConfig | MedusaConfig | DFlashConfig
    vocab_size: int
    target: str
    wanted: Mapping[str, Wanted]
    ids: NDArray[np.int64] | None = None
    known: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def taps(self) -> tuple[str, ...]:
        """What is read of the target; empty texts: see `config`."""
        return ("final",) if isinstance(self.config, MedusaConfig) else self.config.taps

    @property
    def method(self) -> str:
        """The drafter that runs it."""
        if isinstance(self.config, DFlashConfig):
            return DFLASH
        return EAGLE if isinstance(self.config, EagleConfig) else MEDUSA


def plain_names(weights: RawTensors | None, renamed: Mapping[str, str]) -> dict[str, str]:
    """Name without a prefix -> name in the file. `renamed`: prefix -> what stands in its place.

    FormatError where two tensors would have one name.
    """
    found: dict[str, str] = {}
    for given in weights.tensors if weights is not None else ():
        name = given
        for prefix, other in renamed.items():
            name = other + name.removeprefix(prefix) if name.startswith(prefix) else name
        if name in found:
            raise FormatError(f"the tensors {found[name]} and {given} are both {name}")
        found[name] = given
    return found


def tensor_faults(layout: Layout, weights: RawTensors) -> list[Fault]:
    """Every tensor that is absent, misshapen, or that nobody reads."""
    faults: list[Fault] = []
    for one in layout.wanted.values():
        tensor = weights.tensors.get(one.name)
        if tensor is None:
            faults.append(("missing", f"{one.name}, floats {list(one.shape)}"))
        elif tensor.shape != one.shape or tensor.type_name not in LARGEST:
            faults.append(("wrong shape", f"{said(tensor)}, expected floats {list(one.shape)}"))
    read = {one.name for one in layout.wanted.values()} | set(layout.known)
    faults += [("nobody reads", said(tensor)) for name, tensor in weights.tensors.items() if name not in read]
    return faults


def value_faults(layout: Layout, weights: RawTensors) -> list[Fault]:
    """Every tensor with values that are not finite or too large for heads. Reads all of them."""
    found = []
    for one in layout.wanted.values():
        if not all_fit(weights, weights.tensors[one.name]):
            text = f"{one.name} has values that are not finite or above {MOST:g}"
            found.append(("wrong values", text))
        weights.release()
    return found


def all_fit(weights: RawTensors, tensor: RawTensor) -> bool:
    """Whether a tensor of floats has no infinity, no NaN and nothing above MOST."""
    kind, bits, largest = LARGEST[tensor.type_name]
    flat = weights.rows(tensor).reshape(-1)
    for start in range(0, len(flat), PIECE):
        piece = np.ascontiguousarray(flat[start : start + PIECE]).view(kind)
        if ((piece & bits) > largest).any():
            return False
    return True


def whole_numbers(weights: RawTensors, tensor: RawTensor, count: int) -> NDArray[np.int64] | None:
    """i64[count]; None for a tensor that is something else."""
    kind = WHOLE.get(tensor.type_name)
    if kind is None or tensor.shape != (count,) or tensor.nbytes != count * np.dtype(kind).itemsize:
        return None
    return np.ascontiguousarray(weights.rows(tensor)).reshape(-1).view(kind).astype(np.int64)


def is_zero(weights: RawTensors, tensor: RawTensor) -> bool:
    """Whether it holds nothing but zeros."""
    return math.prod(tensor.shape) > 0 and not weights.rows(tensor).any()


def in_order(ids: NDArray[np.int64], vocab_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """(token ids ascending, their rows in that order, or None where they lie so); FormatError for bad ids."""
    if ids.min() < 0 or ids.max() >= vocab_size:
        bad = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise FormatError(f"the token {bad} is drafted, accepted are 0 to {vocab_size - 1}")
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise FormatError(f"the token {twice[0]} is drafted twice")
    return ordered, None if (order[1:] > order[:-1]).all() else order


def said(tensor: RawTensor) -> str:
    """Name, type and shape."""
    return f"{tensor.name} {tensor.type_name}{list(tensor.shape)}"


def brief_faults(faults: Iterable[Fault], most: int = 3) -> str:
    """The first faults in a line."""
    texts = [f"{kind}: {text}" for kind, text in faults]
    more = f"; and {len(texts) - most} more, which `outpace heads doctor` names" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more
