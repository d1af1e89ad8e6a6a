"""A trained early head: what a looped model's output matrix reads of the state after an early loop.

What `train_early` (`train/early.py`) writes and the drafter `speed` reads. A small layer adds to the state x
after loop d1, where the last norm has been. An untrained one adds nothing: the model's own early output.

    x + relu(x W1 + b1) W2 + b2

The folder's tensors (see `folder.py`), with states of width D and W units:

    hidden.weight f32[W, D]   hidden.bias f32[W]   output.weight f32[D, W]   output.bias f32[D]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Looped, Target
from outpace.core.errors import OutpaceError
from outpace.files.safetensors import FolderWeights
from outpace.heads.folder import HeadConfig, Tensors, read_tensors, write_folder
from outpace.heads.proposals import HeadLayer, tapped

METHOD = "early"
MAX_LOOPS = 64


@dataclass(frozen=True, slots=True)
class EarlyConfig:
    """What a folder of an early head says of itself.

    loop         d1, the loop that it is for: 1 to num_loops - 1.
    num_loops    R, those of the model.
    hidden_size  D, width of the target's states at the tap "final".
    width        W, units of the layer.
    targets      fingerprints of the model that it was trained on, in each form in which the model runs.
    model        what it was called, for error messages.
    """

    loop: int
    num_loops: int
    hidden_size: int
    width: int
    targets: tuple[str, ...]
    model: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that every folder has."""
        return {
            "hidden.weight": (self.width, self.hidden_size),
            "hidden.bias": (self.width,),
            "output.weight": (self.hidden_size, self.width),
            "output.bias": (self.hidden_size,),
        }


@dataclass(frozen=True, slots=True)
class EarlyWeights:
    """Config, and f32 tensors by name."""

    config: EarlyConfig
    tensors: Tensors

    def __post_init__(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        assert shapes == self.config.shapes(), f"tensors of shapes {shapes}, not {self.config.shapes()}"


class EarlyHead:
    """The head of a folder, lying where the target computes; an OutpaceError if it is another model's.

    loop  d1.
    """

    def __init__(self, target: Target, path: str | Path) -> None:
        head = read_early(path)
        config, model = head.config, tapped(target, "an early head")
        loops = target.num_loops if isinstance(target, Looped) else 1
        if config.num_loops != loops:
            raise OutpaceError(
                f"the head in {path} is of a model of {config.num_loops} loops, accepted are heads of this "
                f"one, which has {loops}"
            )
        if config.hidden_size != model.hidden_size or model.fingerprint() not in config.targets:
            raise OutpaceError(
                f"the head in {path} was trained on another model ({config.model or 'of no name'}); accepted "
                "are heads of this one, as `train_early` makes them"
            )
        self.loop = config.loop
        self._layer = HeadLayer(model, head.tensors, first=0, count=1).rounded()

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] at "final" after the loop -> f32[n, D], what the output matrix reads in their place."""
        with np.errstate(over="ignore", invalid="ignore"):  # what leaves no choice is no guess
            return self._layer(states)[:, 0]


def read_early(folder: str | Path) -> EarlyWeights:
    """The head in a folder; FormatError where it is missing, truncated or something else."""
    found = HeadConfig(folder, METHOD, "train_early")
    config = read_config(found)
    return EarlyWeights(config, read_tensors(FolderWeights(found.folder), config.shapes(), found.folder))


def write_early(folder: str | Path, head: EarlyWeights) -> None:
    """Write a folder, each file whole or not at all."""
    write_folder(folder, METHOD, asdict(head.config), head.tensors)


def read_config(found: HeadConfig) -> EarlyConfig:
    """The fields of a config.json, every one checked."""
    num_loops = found.size("num_loops", 2, MAX_LOOPS)
    targets = found.field("targets")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) and t for t in targets):
        raise found.fault("targets", "expected one or more fingerprints of a model")
    return EarlyConfig(
        found.size("loop", 1, num_loops - 1),
        num_loops,
        found.size("hidden_size"),
        found.size("width"),
        tuple(targets),
        found.model,
    )
