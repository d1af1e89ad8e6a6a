"""What callers give, checked before anything runs: a slip is one line that names the option."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from outpace.core.errors import OutpaceError
from outpace.core.options import accept, shown, whole

MOST = 2**31 - 1  # samples, positions
MOST_STEPS = 2**20
MOST_WINDOW = 2**16
MOST_NUMBERS = 2**40  # of all samples together

_NO_MEMORY = "can't allocate memory", "not enough memory", "out of memory"


def checked_steps(num_steps: Any) -> int:
    """The number, if a chain can have so many steps; else an OutpaceError."""
    return whole("the number of steps", num_steps, 1, MOST_STEPS)


def checked_numbers(name: str, values: Any) -> tuple[float, ...]:
    """Numbers from a list, an array or a tensor. A nan passes: who knows what its step is names it."""
    if isinstance(values, torch.Tensor | np.ndarray):
        values = values.tolist()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise OutpaceError(f"{name} is {shown(values)}, accepted are lists of numbers")
    return tuple(
        value if isinstance(value, float) else accept(f"{name}[{index}]", value, float)
        for index, value in enumerate(values)
    )


def checked_shape(shape: Any, num: int) -> tuple[int, ...]:
    """The shape of one of `num` samples."""
    numbers: tuple[int, ...] = accept("shape", shape, Sequence[int])
    if not numbers or min(numbers) < 1:
        raise OutpaceError(f"shape is {numbers}, accepted are one or more whole numbers >= 1")
    if np.prod([float(size) for size in (num, *numbers)]) > MOST_NUMBERS:
        raise OutpaceError(
            f"{num} samples of shape {shown(shape)} are too many, accepted are {MOST_NUMBERS} numbers in all"
        )
    return numbers


def checked_part(name: str, value: Any, kind: Any, example: str) -> Any:
    """An object of a protocol; a class of such objects is none."""
    if isinstance(value, type) or not isinstance(value, kind):
        raise OutpaceError(f"{name} is {shown(value)}, accepted are objects such as {example}")
    return value


def checked_function(name: str, value: Any) -> Any:
    """What can be called, and is not a class."""
    if isinstance(value, type) or not callable(value):
        raise OutpaceError(f"{name} is {shown(value)}, accepted are functions")
    return value


def checked_dtype(dtype: Any) -> torch.dtype:
    """A type of floating numbers."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise OutpaceError(f"dtype is {shown(dtype)}, accepted are floating ones such as torch.float32")
    return dtype


def checked_device(device: Any) -> torch.device:
    """A device on which something can be computed here, with its number."""
    try:
        made = torch.zeros(1, device=device)
        made.cpu()
        return made.device
    except Exception as error:  # torch has one of its own for every kind
        reason = str(error).partition("\n")[0]
        raise OutpaceError(f"device {shown(device)} cannot be used here: {reason}") from None


def checked_conditions(conditions: Any, num: int) -> torch.Tensor | None:
    """[num, ...]: what the model is told of each sample, from a tensor, an array or lists."""
    if conditions is None:
        return None
    if isinstance(conditions, np.ndarray | list | tuple):
        try:
            conditions = torch.as_tensor(conditions)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            pass
    if not isinstance(conditions, torch.Tensor):
        raise OutpaceError(f"conditions are {shown(conditions)}, accepted is a tensor [{num}, ...]")
    given = len(conditions) if conditions.ndim else "0 dimensions of"
    if given != num:
        raise OutpaceError(f"{given} conditions for {num} samples; one for each is accepted")
    return conditions


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Says so in one line where there is not enough, with what there should be less of."""
    try:
        yield
    except MemoryError as error:
        raise _not_enough(what) from error
    except RuntimeError as error:  # torch has one type for a GPU alone
        if not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise _not_enough(what) from error


def _not_enough(what: str) -> OutpaceError:
    return OutpaceError(f"there is not enough memory for {what}; accepted are fewer at a time, or less")
