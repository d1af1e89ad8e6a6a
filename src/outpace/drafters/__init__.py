"""Drafters: one method per file. The table is the list.

An entry is a class, or a function that makes one from names. Its keyword-only parameters are the method's
options. It may also name any of the following, which `load` or `accelerate` supplies:

target      the Target that it will draft for.
tokenizer   the target's tokenizer.
tree        a TreePolicy, or None for the drafter's own. A drafter that does not name it refuses the option.
open_model  a function: short name, file or folder -> an object with `target`, `tokenizer` and `costs`.
memo        a function (name, make, fits) -> arrays: `make()`, cached on disk with the target's weights, and
            read from there if `fits(arrays)` is true or `fits` is not given.
beside      a function: name -> path of a file that belongs to the target's weights; None if they are no file.
costs       a function () -> CallCosts of the target.
context     all of these, for a drafter that makes others.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from outpace.core.errors import OutpaceError
from outpace.core.registry import Registry

if TYPE_CHECKING:
    from outpace.core.contracts import Drafter, TreePolicy

DRAFTERS = Registry(
    "drafter",
    {
        "none": "outpace.drafters.none:NoDraft",
        "auto": "outpace.drafters.auto:auto",
        "ngram": "outpace.drafters.lookup.ngram:NGram",
        "recycling": "outpace.drafters.lookup.recycling:Recycling",
        "bigram": "outpace.drafters.lookup.bigram:Bigram",
        "jacobi": "outpace.drafters.lookup.jacobi:Jacobi",
        "lookahead": "outpace.drafters.lookup.lookahead:Lookahead",
        "consensus": "outpace.drafters.lookup.consensus:Consensus",
        "copy": "outpace.drafters.lookup.copy:Copy",
        "phrases": "outpace.drafters.lookup.phrases:phrases",
        "retrieval": "outpace.drafters.lookup.retrieval:Retrieval",
        "backoff": "outpace.drafters.lookup.backoff:Backoff",
        "mix": "outpace.drafters.mix:mix",
        "suffix": "outpace.drafters.lookup.suffix:Suffix",
        "layer_skip": "outpace.drafters.model.layer_skip:LayerSkip",
        "early_exit": "outpace.drafters.model.early_exit:early_exit",
        "swift": "outpace.drafters.model.swift:Swift",
        "small_model": "outpace.drafters.model.small_model:small_model",
        "blockwise": "outpace.drafters.heads.blockwise:Blockwise",
        "blockwise_lattice": "outpace.drafters.heads.blockwise_lattice:BlockwiseLattice",
        "blockwise_local": "outpace.drafters.heads.blockwise_local:blockwise_local",
        "markov_heads": "outpace.drafters.heads.markov_heads:MarkovHeads",
        "medusa": "outpace.drafters.heads.medusa:Medusa",
        "hydra": "outpace.drafters.heads.hydra:Hydra",
        "eagle": "outpace.drafters.heads.eagle:Eagle",
        "dflash": "outpace.drafters.heads.dflash:DFlash",
        "speed": "outpace.drafters.model.speed:speed",
        "cascade": "outpace.drafters.model.cascade:cascade",
    },
    "outpace.drafters",
)


def make_drafter(spec: str, tree: TreePolicy | None, context: Mapping[str, Any]) -> Drafter:
    """The drafter of a spec; a tree is refused by drafters that have none to shape."""
    if tree is not None:
        check_takes_tree(spec)
    drafter: Drafter = DRAFTERS.create(spec, **{**context, "tree": tree})
    return drafter


def check_takes_tree(spec: str) -> None:
    """Raise an OutpaceError that names the others, if the drafter of a spec has no tree to shape."""
    if not takes_tree(DRAFTERS.parse(spec)[0]):
        names = ", ".join(name for name in DRAFTERS.names() if takes_tree(name)) or "none"
        raise OutpaceError(f"the drafter {spec!r} takes no tree, accepted are {names}")


def takes_tree(name: str) -> bool:
    """Whether a drafter's trees have the shape that a TreePolicy gives them; no for one that is broken."""
    try:
        return "tree" in inspect.signature(DRAFTERS.factory(name)).parameters
    except OutpaceError:
        return False
