"""What a part says of itself, for the parts that it is put together with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from outpace.core.errors import OutpaceError
from outpace.core.tree import Draw

Numerics = Literal["bitwise", "ties"]
"""Whether a token's logits ignore what shares its call to the last bit, or up to floating-point ties: there
their last digits differ, and where two tokens are that close the choice may fall either way."""

Paced = Literal["always", "shared", "never"]

UNBOUNDED = 2**31


@dataclass(frozen=True, slots=True)
class Traits:
    """Declared by every target, drafter and tree policy; the defaults are those of the simplest one.

    A wrapper passes on what it does not change: `replace(inner.traits, ...)`.

    Of a target:
    numerics    "bitwise" or "ties".
    max_nodes   the most tokens of a call, those of all rows together.
    chunk       the most tokens of a prompt that are worth reading in one call.
    chains_only whether it scores no trees that branch.

    Of a drafter:
    draws       the draws that its trees may have beside "point"; none: it has no distribution of its own.
    branches    whether it may propose more than a chain.
    reads_top   the largest k that it asks `RowScores.top` for.
    paced       when its drafts are as deep as has paid of late, maybe not at all: "always", if they cost so
                much, in time or in nodes, that they may not pay; "shared", where rows share a call, in which
                a node is not nearly free; "never", if somebody has named their shape. Of a policy: "always"
                if it is to follow what pays, so that drafters with it are paced although it was named.
    whole_calls whether it runs the target on the rows of its asks, or reads hidden states of steps: a
                pipeline has none.
    goes_on     whether it drafts behind `Ask.known` where there is some. Others know of the root alone.
    stops       whether it ends a draft where it is less sure than `Ask.min_p`; of a policy: drafters with it.

    Of a tree policy:
    reads_logq  whether it looks at log-probabilities or distributions, which have a price.
    keeps_draw  whether its trees serve rules that read distributions. If it takes or leaves nodes for the
                tokens that were drawn they do not: they have a "point" draw, always.
    """

    numerics: Numerics = "bitwise"
    max_nodes: int = UNBOUNDED
    chunk: int = UNBOUNDED
    chains_only: bool = False
    draws: frozenset[Draw] = frozenset()
    branches: bool = False
    reads_top: int = 0
    paced: Paced = "shared"
    whole_calls: bool = False
    goes_on: bool = False
    stops: bool = False
    reads_logq: bool = True
    keeps_draw: bool = True


def check_traits(part: Any) -> None:
    """Raise an OutpaceError for a target, drafter or tree policy that declares none."""
    if not isinstance(getattr(part, "traits", None), Traits):
        raise OutpaceError(
            f"{type(part).__name__} declares no traits, accepted are parts with traits = outpace.Traits(...)"
        )
