"""LayerSkip's self-speculation: the first layers draft, and verification reuses their work.

Elhoushi et al. 2024, "LayerSkip: Enabling Early Exit Inference and Self-Speculative Decoding",
arXiv:2404.16710. The model leaves early: behind its first E layers, its own last norm and output matrix name
the next token.

    propose  one call of the first `layers` layers per level; keys, values and exit states of the drafted
             nodes stay with the target (the paper's KVQ cache)
    score    the loop's own call finds these nodes there and runs only the rest of the layers for them

The bits are those of one whole call (`Layered.run`). There is no state but the target's. In a looped model
layer l of loop r is layer r G + l of R G: `loops` d1 has the early output of `speed` draft for whole calls.

Deviations. The paper trains the model for it (layer dropout, a loss at every exit). Here any model will do,
but one without that training drafts badly after few layers. The paper drafts a fixed number of tokens;
here a TreePolicy says, by default a chain that ends where the exit is unsure.

A trained adapter between the first layers and the output matrix is another method (`exit_adapter.py`), which
the option `path` asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from outpace.core.call import Prompt
from outpace.core.contracts import Layered, Looped, Target, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.core.steps import Ask, Step
from outpace.core.tree import TokenTree
from outpace.drafters.model.exit_adapter import AdaptedExit
from outpace.drafters.model.own_layers import grow_on_rows, layered, traits_on_rows
from outpace.heads.exit_adapter import METHOD
from outpace.heads.exit_adapter_layer import ExitAdapter, exited
from outpace.heads.packaged import heads_for
from outpace.trees.chain import Chain


class EarlyExit:
    """Trees of the first `layers` layers, or of a looped model's first `loops` loops; 0: three quarters."""

    @checked
    def __init__(
        self, *, layers: int = 0, loops: int = 0, tree: TreePolicy | None = None, target: Layered
    ) -> None:
        self._target = layered(target, "early_exit")
        self.layers = _depth(self._target, layers, loops)
        self._tree: TreePolicy = Chain(length=4, min_p=0.5) if tree is None else tree
        self.traits = traits_on_rows(self._tree, own=tree is None)

    def start(self, prompt: Prompt) -> None:
        """There is nothing to remember."""

    def propose(self, states: Sequence[None], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row."""
        return grow_on_rows(self._target, asks, self._tree, layers=self.layers)

    def observe(self, states: Sequence[None], steps: Sequence[Step]) -> list[None]:
        """There is nothing to remember."""
        return list(states)

    def stop(self, state: None) -> None:
        """There is nothing to give back."""


def _depth(target: Layered, layers: int, loops: int) -> int:
    """The layers of a draft. Those of a looped model count once for every loop."""
    most, num_loops = target.num_layers, target.num_loops if isinstance(target, Looped) else 1
    if not 0 <= layers <= most:
        raise OutpaceError(f"early_exit has layers={layers}, accepted are 0 to {most} (0 is three quarters)")
    if layers and loops:
        raise OutpaceError(f"early_exit has layers={layers} and loops={loops}, accepted is one of them")
    if loops and not (num_loops > 1 and 0 < loops <= num_loops):
        accepted = f"0 to {num_loops} (0 is three quarters)" if num_loops > 1 else "0: the model has no loops"
        raise OutpaceError(f"early_exit has loops={loops}, accepted are {accepted}")
    if num_loops > 1 and not layers:  # the output matrix reads what stands behind a whole loop
        return (loops or max(1, 3 * num_loops // 4)) * (most // num_loops)
    return layers or max(1, 3 * most // 4)


@checked
def early_exit(
    target: Target,
    beside: Callable[[str], Path] | None = None,
    *,
    layers: int = 0,
    loops: int = 0,
    path: str = "none",
    tree: TreePolicy | None = None,
) -> EarlyExit | AdaptedExit:
    """The bare exit, or one with the adapter of a folder.

    path  folder of an adapter; "auto" for the one that lies beside the model's packed weights.
    """
    if path == "none":
        return EarlyExit(layers=layers, loops=loops, tree=tree, target=layered(target, "early_exit"))
    if layers or loops:
        raise OutpaceError(
            f"early_exit has layers={layers}, loops={loops} and a path, accepted is one of them: an adapter "
            "stands behind the layers that it was trained for"
        )
    model = exited(target)
    folder = heads_for(model, METHOD, beside) if path == "auto" else path
    return AdaptedExit(ExitAdapter(model, folder), tree=tree, target=model)
