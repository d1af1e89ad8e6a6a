"""What the native target says of its last call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from outpace.core.edits import Edit
from outpace.core.errors import OutpaceError
from outpace.core.sampling import NO_CHOICE, Sampling, no_choice, warp

if TYPE_CHECKING:
    from outpace._native import Decoder, FlatEdit
    from outpace.targets.native import NativeTarget


class NativeScores:
    """Scores of one call; the logits are made, node by node, only when somebody asks for them."""

    __slots__ = ("_call", "_leads", "_places", "_roots", "_taps", "_target")

    def __init__(
        self,
        target: NativeTarget,
        places: Sequence[tuple[int, int]],
        taps: Sequence[int] = (),
        *,
        leads: Sequence[int] = (),
        roots: bool = True,
    ) -> None:
        self._target = target
        self._places = places  # per row: first node of the call, number of nodes
        self._leads = leads  # per row: nodes of the call before its first
        self._call = target._call
        self._roots = roots  # whether a row begins with its root
        self._taps = tuple(taps)

    def _decoder(self) -> Decoder:
        assert self._call == self._target._call, "these scores were overwritten by a later call of the target"
        return self._target._decoder

    def choose(
        self,
        samplings: Sequence[Sampling],
        positions: Sequence[int],
        edits: Sequence[Sequence[Edit | None] | None] | None = None,
        top: int = 0,
    ) -> list[list[int]]:
        """The target's own choice after every node (see `contracts.Scores`)."""
        rows = [
            (first, count, position, s.temperature, s.top_k, s.top_p, s.min_p, s.seed)
            for (first, count), position, s in zip(self._places, positions, samplings, strict=True)
        ]
        flat = None
        if edits is not None:
            pairs = zip(edits, self._places, strict=True)
            flat = [self._flat(edit) for row, (_, count) in pairs for edit in row or [None] * count]
        choices = self._decoder().choose(rows, flat, top)
        # The choices after the roots are always needed.
        if self._roots and any(row[0] == NO_CHOICE for row in choices):
            raise no_choice()
        return choices

    def _flat(self, edit: Edit | None) -> FlatEdit | None:
        """An edit as the decoder reads it, without a copy."""
        if edit is None:
            return None
        edit.check(self._target.vocab_size)
        return edit.ids, edit.added, edit.repeated, edit.penalty, edit.allowed

    def logits(self, row: int, nodes: Sequence[int]) -> NDArray[np.float32]:
        """f32[n, V]: raw logits after these nodes."""
        return self._decoder().logits(self._nodes(row, nodes))

    def _nodes(self, row: int, nodes: Sequence[int]) -> list[int]:
        """Numbers within the call."""
        first, count = self._places[row]
        assert all(0 <= node < count for node in nodes), "a node that the tree does not have"
        return [first + node for node in nodes]

    def law(self, row: int, node: int, sampling: Sampling) -> NDArray[np.float64]:
        """f64[V]: the law of the choice after a node."""
        return warp(self.logits(row, [node])[0], sampling)

    def top(self, row: int, nodes: Sequence[int], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """([n, k] ids, [n, k] raw logits): best first, lower id on ties. `choose` has found them if told."""
        if 1 <= k <= min(self._target.max_top, self._target.vocab_size):
            return self._decoder().top(self._nodes(row, nodes), k)
        logits = self.logits(row, nodes)
        ids = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        return ids, np.take_along_axis(logits, ids, axis=1)

    def hidden(self, tap: str) -> NDArray[np.float32]:
        """f32[N, D]: "final" (behind the last norm) or a tapped layer's number; rows after one another.

        An OutpaceError for any other tap.
        """
        every = self._states(tap)
        parts = [every[first : first + count] for first, count in self._places]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read(self, row: int, tap: str) -> NDArray[np.float32]:
        """f32[P - 1, D]: those of the row's pending tokens before the root."""
        first = self._places[row][0]
        return self._states(tap)[first - self._leads[row] : first]

    def _states(self, tap: str) -> NDArray[np.float32]:
        """Of all nodes of the call."""
        accepted = ["final", *map(str, self._taps)]
        if tap not in accepted:
            raise OutpaceError(f"unknown tap {tap!r}, accepted are {', '.join(accepted)}")
        return self._decoder().hidden(-1 if tap == "final" else int(tap))
