"""Medusa: heads of their own layers on the target's hidden state propose the tokens behind the root at once.

Cai et al. 2024, "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads",
arXiv:2401.10774. Heads are trained by `outpace train medusa`.

    observe   the call that verified the last draft has the hidden state behind every node: that of the last
              kept node stays
    propose   head h there (`heads/medusa_heads.py`) gives the token h places below the root, which the model
              itself has chosen; no head knows what the others say
    accept    a rule: `typical` is the paper's lossy one, `match` and others are exact

Deviations. The default tree holds the likeliest combinations of the heads' tokens by their probabilities; the
paper's fixed tree is `tree=static:ranks=...`. With sampling, heads add the target's noise to their logits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from outpace.core.contracts import Tapped, TreePolicy
from outpace.core.options import checked
from outpace.drafters.heads.independent import IndependentHeads, check_shape
from outpace.heads.medusa import METHOD
from outpace.heads.medusa_heads import MedusaHeads
from outpace.heads.packaged import heads_for
from outpace.heads.proposals import tapped


class Medusa(IndependentHeads):
    """Trees of what Medusa heads propose: the `size` likeliest nodes, no path less likely than `min_p`.

    path   folder of the heads; "auto" for those that lie with the model's packed weights or, if there are
           none, those that come with the package for it.
    heads  how many heads to use; None for all.
    tree   another shape; `size` and `min_p` have no effect then.
    """

    @checked
    def __init__(
        self,
        target: Tapped,
        beside: Callable[[str], Path] | None = None,
        *,
        path: str = "auto",
        heads: int | None = None,
        size: int = 6,
        min_p: float = 0.1,
        tree: TreePolicy | None = None,
    ) -> None:
        check_shape(METHOD, size, min_p)
        folder: str | Path = path
        if path == "auto":
            folder = heads_for(tapped(target, METHOD), METHOD, beside)
        super().__init__(MedusaHeads(target, folder, num_heads=heads), size=size, min_p=min_p, tree=tree)
