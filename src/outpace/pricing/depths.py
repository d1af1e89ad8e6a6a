"""What drafts cut at every depth would have been like, per row: tokens kept, nodes scored, levels drafted.

A draft of L levels tells about all shorter ones, for it would have begun with them. A draft that ends where
the drafter is less sure than theta tells about every larger theta in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.core.steps import Step
from outpace.core.tree import TokenTree

MOST = 32  # levels that are told apart
MARGIN = 0.97  # of the time without drafts: the best of many measured averages looks better than it is

Price = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Sizes -> seconds."""


class Depths:
    """For every theta and L = 1 to MOST what drafts cut so are like: tokens kept, nodes, levels drafted."""

    def __init__(self, thetas: Sequence[float]) -> None:
        self._thetas = np.array(thetas)
        self._averages = np.zeros((3, len(thetas), MOST))
        self._counts = np.zeros((len(thetas), MOST), np.int64)
        self._highest = 1

    def levels(self, heights: Sequence[int], limit: int) -> int:
        """How many levels were drafted for trees of these heights.

        Where a tree has ended before the limit one level more came to nothing, unless none is ever higher.
        """
        self._highest = max(self._highest, *heights)
        return min(limit, self._highest, max(heights) + 1)

    def cuts(self, tree: TokenTree) -> NDArray[np.int64]:
        """i64[thetas]: after how many levels each theta would have ended a tree; MOST where it would not."""
        if len(self._thetas) == 1 or tree.num_nodes == 1:
            return np.full(len(self._thetas), MOST)
        unsure = np.array(sureness(tree)) < self._thetas[:, None]
        return np.where(unsure.any(axis=1), unsure.argmax(axis=1), MOST)

    def learn(
        self,
        steps: Sequence[Step],
        cuts: Sequence[NDArray[np.int64]],
        limit: int,
        theta: float,
        levels: int,
        rate: float,
    ) -> None:
        """A step whose trees could have `limit` levels; deeper ones and smaller thetas learn nothing."""
        limit = min(limit, MOST)
        depths = np.arange(1, limit + 1)
        kept, nodes, drafted = np.zeros((3, len(self._thetas), limit))
        for one, cut in zip(steps, cuts, strict=True):
            shown = np.minimum(depths, cut[:, None])
            kept += np.minimum(shown, len(one.verdict.path)) / len(steps)
            nodes += np.searchsorted(np.sort(one.tree.shape.depths), shown, side="right") / len(steps)
            drafted = np.maximum(drafted, np.minimum(np.minimum(depths, levels), cut[:, None] + 1))
        told = self._thetas >= theta
        counts, averages = self._counts[told, :limit] + 1, self._averages[:, told, :limit]
        self._counts[told, :limit] = counts
        new = np.array([kept, nodes, drafted])[:, told]
        self._averages[:, told, :limit] += np.maximum(rate, 1 / counts) * (new - averages)

    def best(self, call: Price, draft: Price, rows: int) -> tuple[int, float, float]:
        """(levels, theta, a row's seconds per token) of what pays best, (0, 0.0, ...) for no drafts at all.

        call   of a call of the target, by nodes. draft: of a draft, by levels.
        """
        kept, nodes, levels = self._averages
        token_s = (call(rows * nodes) + draft(levels)) / (1 + kept)
        token_s[self._counts == 0] = np.inf
        which, depth = np.unravel_index(token_s.argmin(), token_s.shape)
        best_s, plain_s = float(token_s[which, depth]), float(call(np.full(1, float(rows)))[0])
        return (
            (int(depth) + 1, float(self._thetas[which]), best_s)
            if best_s < MARGIN * plain_s
            else (0, 0.0, plain_s)
        )


def sureness(tree: TokenTree) -> list[float]:
    """Of each token of a drafted chain, how sure the drafter was: what it compares with `Ask.min_p`."""
    if tree.draw != "point" and tree.laws is not None:
        return [float(law.max()) for law in tree.laws[: tree.num_nodes - 1] if law is not None]
    return [1.0] * (tree.num_nodes - 1) if tree.logq is None else np.exp(tree.logq[1:]).tolist()
