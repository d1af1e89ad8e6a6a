"""Pickled weights of torch (.bin, .pt), read only on demand: a pickle is a program.

torch's own reader with `weights_only` runs none but a few harmless functions. It comes with the extra torch.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from outpace.core.errors import FormatError, OutpaceError, one_line
from outpace.files.raw import RawTensor
from outpace.files.regular import open_regular

TYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "bool": "BOOL",
}  # fmt: skip


class PickledWeights:
    """The tensors of one file, in memory: the protocol RawTensors. FormatError for anything else."""

    def __init__(self, path: Path) -> None:
        try:
            import torch
        except ImportError as error:
            raise OutpaceError(
                f"{path} is read by the extra torch (pip install 'outpace[torch]'): {error}"
            ) from None
        try:
            with open_regular(path) as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about pickles that it may not understand
                loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
        except FormatError:
            raise
        except Exception as error:  # pickles fail in any way
            reason = one_line(str(error)).partition(". ")[0]
            raise FormatError(f"cannot read {path}: {reason or type(error).__name__}") from None
        if not isinstance(loaded, dict) or not loaded:
            raise FormatError(f"{path} does not hold tensors by name")
        self.tensors: dict[str, RawTensor] = {}
        self._data: dict[str, np.ndarray] = {}
        for name, value in loaded.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise FormatError(f"{path} does not hold tensors by name")
            if value.layout is not torch.strided or value.is_quantized:
                raise FormatError(
                    f"{path}: the tensor {name} is sparse or quantised, accepted are plain ones"
                )
            kind = str(value.dtype).removeprefix("torch.")
            data = np.zeros(0, np.uint8)  # of a type that nobody reads
            if kind in TYPES:
                data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._data[name] = data
            self.tensors[name] = RawTensor(name, tuple(value.shape), TYPES.get(kind, kind), 0, data.nbytes)

    def rows(self, tensor: RawTensor) -> np.ndarray:
        """See RawTensors."""
        rows: np.ndarray = self._data[tensor.name].reshape(math.prod(tensor.shape[:-1]), -1)
        return rows

    def release(self) -> None:
        """See RawTensors; they stay."""
