"""A tree of a fixed shape: a number of children per level, or a list of nodes by their ranks.

Lists of ranks: Medusa (Cai et al. 2024, arXiv:2401.10774) and EAGLE (Li et al. 2024, arXiv:2401.15077);
widths per level: MCSD (Yang et al. 2024, arXiv:2401.06706).

    expand  the nodes of the last level that have children in the shape
    grow    the first candidates, in the number that the shape has there
    prune   deeper nodes go first, and of one level those of higher rank

The draw stays valid: the shape looks at no token.

Deviations. A list of ranks must be complete: it has the parent and the siblings of lower rank of every node.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.core.traits import Traits
from outpace.trees.template import Ranks, Template

MAX_NODES = 1024


class Static(Template):
    """`widths` children per node and level, as "4,2,1"; or `ranks`, as "0,1,0.0,0.1,0.0.0", in its place.

    In `ranks` a node is the ranks on its path, joined by dots: "0.1" is the second child of the first child.
    """

    traits = Traits(reads_logq=False)

    @checked
    def __init__(self, *, widths: str = "3,2,1,1", ranks: str = "") -> None:
        nodes = _parsed(ranks) if ranks else _by_widths(_counts(widths))
        # Near the root first; of one level, low ranks first.
        nodes.sort(key=lambda node: (len(node), sum(node), node))
        super().__init__({node: -float(place) for place, node in enumerate(nodes)})


def _counts(widths: str) -> list[int]:
    try:
        counts = [int(part) for part in widths.split(",")]
    except ValueError:
        counts = []
    size = sum(itertools.accumulate(counts, lambda nodes, width: nodes * width))
    if not counts or min(counts) < 1 or size > MAX_NODES:
        raise OutpaceError(
            f"static has widths={widths!r}, accepted are whole numbers >= 1 with commas between them, of a "
            f"tree of at most {MAX_NODES} nodes"
        )
    return counts


def _by_widths(counts: Sequence[int]) -> list[Ranks]:
    levels = [list(itertools.product(*map(range, counts[: depth + 1]))) for depth in range(len(counts))]
    return list(itertools.chain.from_iterable(levels))


def _parsed(ranks: str) -> list[Ranks]:
    try:
        nodes = [tuple(int(rank) for rank in part.split(".")) for part in ranks.split(",")]
    except ValueError:
        raise OutpaceError(
            f"static has ranks={ranks!r}, accepted are nodes such as 0, 1, 0.0 with commas between them"
        ) from None
    known = {(), *nodes}
    for node in nodes:
        before = node[:-1] if node[-1] == 0 else (*node[:-1], node[-1] - 1)
        if min(node) < 0 or before not in known or len(known) > MAX_NODES:
            name = ".".join(map(str, node))
            raise OutpaceError(
                f"static has ranks with {name} but not what comes before it, accepted are lists that have "
                "every node's parent and its siblings of lower rank"
            )
    return nodes
