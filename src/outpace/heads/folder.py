"""The folder of a trained head of any method: config.json and model.safetensors, every field checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.json_files import json_file
from outpace.files.quants import bf16_to_f32
from outpace.files.raw import RawTensor
from outpace.files.safetensors import FolderWeights
from outpace.files.whole import write_whole

VERSION = 1
MAX_SIZE = 1 << 20
HEAD_STEP = 16  # of the width of a head of attention, which the kernels take
MOST = float(np.finfo(np.float16).max)  # of a weight
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_FLOATS: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
Tensors = Mapping[str, NDArray[np.float32]]


class HeadConfig:
    """The fields of a config.json; FormatError where it is missing, or of heads of another method."""

    def __init__(self, folder: str | Path, method: str, made_by: str) -> None:
        self.folder = Path(os.path.expanduser(folder))
        if not self.folder.is_dir():
            raise FormatError(
                f"there is no folder of heads {self.folder}, accepted is what `{made_by}` has written"
            )
        self._path = self.folder / CONFIG
        self._fields = json_file(self._path)
        if (found := self.field("method")) != method:
            raise FormatError(f"{self._path}: heads of the method {found!r}, accepted is {method!r}")
        if (found := self.field("version")) != VERSION:
            raise FormatError(f"{self._path}: heads of version {found!r}, accepted is {VERSION}")

    def field(self, name: str) -> Any:
        """What stands there, or None."""
        return self._fields.get(name)

    def size(self, name: str, least: int = 1, most: int = MAX_SIZE) -> int:
        """A whole number of this range."""
        size = self.field(name)
        if type(size) is not int or not least <= size <= most:
            accepted = f">= {least}" if most == MAX_SIZE else f"from {least} to {most}"
            raise self.fault(name, f"accepted are whole numbers {accepted}")
        return size

    def number(self, name: str, least: float, most: float) -> float:
        """A number above `least`, up to `most`."""
        value = self.field(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least < value <= most:
            raise self.fault(name, f"accepted are numbers above {least:g}, up to {most:g}")
        return float(value)

    def fingerprint(self) -> str:
        """Of the model that they are for."""
        target = self.field("target")
        if not isinstance(target, str) or not target:
            raise self.fault("target", "expected the fingerprint of a model")
        return target

    def heads_of_attention(self) -> dict[str, int]:
        """num_heads, num_kv_heads and head_dim, as the kernels take them."""
        sizes = {name: self.size(name) for name in ("num_heads", "num_kv_heads", "head_dim")}
        if sizes["num_heads"] % sizes["num_kv_heads"]:
            raise self.fault("num_kv_heads", f"accepted are divisors of num_heads, {sizes['num_heads']}")
        if sizes["head_dim"] % HEAD_STEP or sizes["head_dim"] > 512:
            raise self.fault("head_dim", f"accepted are multiples of {HEAD_STEP} up to 512")
        return sizes

    def fault(self, name: str, accepted: str) -> FormatError:
        """What to say of a field that is something else."""
        return FormatError(f"{self._path}: {name} is {self.field(name)!r}, {accepted}")

    @property
    def model(self) -> str:
        """What the model was called that they were trained on."""
        return str(self._fields.get("model", ""))


def read_tensors(weights: FolderWeights, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> Tensors:
    """f32 tensors by name; FormatError for those that are missing, misshapen or beyond what f16 holds.

    Trained weights are far below that, and products of larger ones are no numbers, for which a model would be
    blamed.
    """
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = _floats(weights, checked_tensor(weights, name, shape, folder))
        if not -MOST <= tensors[name].min() <= tensors[name].max() <= MOST:
            raise FormatError(
                f"{folder}: the tensor {name} has values that are not finite or above {MOST:g}, accepted are "
                "weights that float16 can hold"
            )
    return tensors


def checked_tensor(weights: FolderWeights, name: str, shape: tuple[int, ...], folder: Path) -> RawTensor:
    """A tensor whose values are not read yet; FormatError where it is missing or misshapen."""
    tensor = weights.tensors.get(name)
    if tensor is None or tensor.shape != shape or tensor.type_name not in _FLOATS:
        found = "missing" if tensor is None else f"{tensor.type_name}{list(tensor.shape)}"
        raise FormatError(f"{folder}: the tensor {name} is {found}, expected floats {list(shape)}")
    return tensor


def write_folder(
    folder: str | Path,
    method: str,
    config: Mapping[str, Any],
    tensors: Tensors,
    **more: NDArray[Any],
) -> None:
    """Write a folder, each file whole or not at all; weights as f16, which is all that they are worth.

    An OutpaceError, before anything is written, for weights that f16 cannot hold: nobody could read them.
    """
    from safetensors.numpy import save  # comes with the extra torch, as all training does

    folder = Path(folder)
    # `save` writes the memory of an array as it lies.
    with np.errstate(over="ignore"):
        arrays: dict[str, NDArray[Any]] = {n: np.ascontiguousarray(t, np.float16) for n, t in tensors.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise OutpaceError(
                f"the tensor {name} of {folder} has values that are not finite or above {MOST:g}, which "
                "float16 cannot hold; a lower learning rate helps"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutpaceError(f"cannot write {folder}: {error.strerror or error}") from error
    fields = {"method": method, "version": VERSION, **config}
    write_whole(folder / WEIGHTS, save(arrays | more))
    write_whole(folder / CONFIG, (json.dumps(fields, indent=1) + "\n").encode())


def _floats(weights: FolderWeights, tensor: RawTensor) -> NDArray[np.float32]:
    raw = np.ascontiguousarray(weights.rows(tensor)).reshape(-1).view(_FLOATS[tensor.type_name])
    floats: NDArray[np.float32] = (
        bf16_to_f32(raw) if tensor.type_name == "BF16" else raw.astype(np.float32)
    ).reshape(tensor.shape)
    return floats
