"""C2T's classifier: how likely it is that the target keeps a drafted node, by what is known of the node.

Huo et al. 2025, "C2T: A Classifier-Based Tree Construction Method in Speculative Decoding", arXiv:2502.13652.
What `outpace train c2t` writes and the tree policy `c2t` reads.

    joint    log P, of the product of the draft's probabilities on the path to the node; FLOOR at least
    entropy  H of the law that the node was drawn from, in nats, over its TOP likeliest tokens
    depth    d, 1 below the root
    F(x) = sigmoid(w2 . relu(W1 x + b1) + b2)

Deviation: the paper's classifier reads P itself. Nearly all nodes have less than a hundredth, which it would
take very long to tell apart.

The folder's tensors (see `folder.py`), for f of these features and W units:

    hidden.weight f32[W, f]   hidden.bias f32[W]   output.weight f32[1, W]   output.bias f32[1]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.files.safetensors import FolderWeights
from outpace.heads.folder import HeadConfig, Tensors, read_tensors, write_folder

METHOD = "c2t"
FEATURES = ("joint", "entropy", "depth")
TOP = 1000  # tokens whose probabilities an entropy is of
FLOOR = -12.0  # of the logarithm of a joint probability
RARE = 1e-7  # of a probability: a thousand of these are worth nothing


@dataclass(frozen=True, slots=True)
class C2TConfig:
    """What a folder of a classifier says of itself.

    width     W, units of the hidden layer.
    features  those that it reads, in the order of FEATURES.
    draft     the spec of the drafter whose trees it was trained on. model: what that drafted for.
    """

    width: int
    features: tuple[str, ...] = FEATURES
    draft: str = ""
    model: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that every folder has."""
        return {
            "hidden.weight": (self.width, len(self.features)),
            "hidden.bias": (self.width,),
            "output.weight": (1, self.width),
            "output.bias": (1,),
        }


@dataclass(frozen=True, slots=True)
class Classifier:
    """Config, and f32 tensors by name."""

    config: C2TConfig
    tensors: Tensors

    def __post_init__(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        assert shapes == self.config.shapes(), f"tensors of shapes {shapes}, not {self.config.shapes()}"

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """f32[n, 3], all FEATURES of n nodes -> f32[n]: how likely each is to be kept."""
        read = features[:, [FEATURES.index(name) for name in self.config.features]].astype(np.float32)
        hidden = read @ self.tensors["hidden.weight"].T + self.tensors["hidden.bias"]
        logits = np.maximum(hidden, 0.0) @ self.tensors["output.weight"][0] + self.tensors["output.bias"]
        with np.errstate(over="ignore"):  # what is certainly wrong is 0
            likely: NDArray[np.float32] = 1.0 / (1.0 + np.exp(-logits))
        return likely


def entropy(law: NDArray[np.floating]) -> float:
    """Of a law [V], in nats: the sum of -p log p over its TOP largest probabilities, as they are."""
    some = law[law > RARE]
    if len(some) > TOP:
        some = np.partition(some, len(some) - TOP)[-TOP:]
    return float(-(some * np.log(some)).sum())


def features_of(
    joints: NDArray[np.floating], entropies: NDArray[np.floating], depths: NDArray[np.integer]
) -> NDArray[np.float32]:
    """f32[n, 3] of nodes with these log P, entropies and depths, each [n]."""
    return np.stack([np.maximum(joints, FLOOR), entropies, depths], axis=1).astype(np.float32)


def read_c2t(folder: str | Path) -> Classifier:
    """The classifier in a folder; FormatError where it is missing, truncated or something else."""
    found = HeadConfig(folder, METHOD, "outpace train c2t")
    config = read_config(found)
    return Classifier(config, read_tensors(FolderWeights(found.folder), config.shapes(), found.folder))


def write_c2t(folder: str | Path, classifier: Classifier) -> None:
    """Write a folder, each file whole or not at all."""
    write_folder(folder, METHOD, asdict(classifier.config), classifier.tensors)


def read_config(found: HeadConfig) -> C2TConfig:
    """The fields of a config.json, every one checked."""
    names = found.field("features")
    if not isinstance(names, list) or not names or names != [name for name in FEATURES if name in names]:
        raise found.fault("features", f"accepted are some of {', '.join(FEATURES)}, in this order")
    return C2TConfig(found.size("width"), tuple(names), str(found.field("draft") or ""), found.model)
