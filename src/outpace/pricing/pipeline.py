"""After which loops a looped model should guess: from what its outputs have named, and what passes cost.

passes   a token that the output after loop d names first rightly lets the next one enter d passes after
         it, else R: these sum up to all passes (SPEED, arXiv:2310.12072; LoopSpec, arXiv:2609.17184)
nodes    a right token is under way for R passes; a wrong one, and what its own outputs name, until the
         token before it is through
price    passes for each token, times what a pass of so many nodes takes
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

MOST = 256  # tokens that are remembered
Guesses = tuple[int, ...]


class Outputs:
    """What the outputs after the loops 1 ... R - 1 named, and what the token turned out to be."""

    def __init__(self, num_loops: int) -> None:
        self.num_loops = num_loops
        self._rows: deque[tuple[list[int], int]] = deque(maxlen=MOST)

    def __len__(self) -> int:
        return len(self._rows)

    def learn(self, named: Mapping[int, int], token: int) -> None:
        """One token. What is not known of all loops tells nothing of others, and is left out."""
        if len(named) == self.num_loops - 1:
            self._rows.append(([named[loop] for loop in range(1, self.num_loops)], token))

    def load(self, guesses: Guesses) -> tuple[float, float]:
        """(passes for each token, tokens under way in a pass) with guesses after these loops."""
        last = self.num_loops
        named = np.array([row for row, _ in self._rows], np.int64).reshape(len(self), last - 1)
        right = named == np.array([token for _, token in self._rows], np.int64)[:, None]
        entered = np.full(len(self), last)
        for loop in reversed(guesses):
            entered[right[:, loop - 1]] = loop
        # Of every guess, whether an earlier one of the same token had named another: only then it enters.
        enters = {
            loop: np.all([named[:, loop - 1] != named[:, before - 1] for before in guesses[:i]], axis=0)
            if i
            else np.ones(len(self), bool)
            for i, loop in enumerate(guesses)
        }
        wrong = self._wrong({loop: float(enters[loop].mean()) for loop in guesses})
        lost = sum(wrong[last - loop] * (enters[loop] & ~right[:, loop - 1]).sum() for loop in guesses)
        passes = float(entered.sum())
        return passes / len(self), (last * len(self) + float(lost)) / passes

    def _wrong(self, enters: Mapping[int, float]) -> list[float]:
        """For 0, 1, ... passes of a wrong token, in how many places it and what hangs on it are."""
        places = [0.0]
        for left in range(1, self.num_loops):
            below = sum(share * places[left - loop] for loop, share in enters.items() if loop < left)
            places.append(left + below)
        return places

    def best(self, pass_s: Callable[[float], float], *, most: int = 2) -> Guesses:
        """The guesses, at most so many per token, with the least time for a token; () is plain decoding.

        pass_s  seconds of a pass of so many tokens.
        """
        choices: Sequence[Guesses] = [
            some for size in range(most + 1) for some in combinations(range(1, self.num_loops), size)
        ]

        def seconds(guesses: Guesses) -> float:
            passes, nodes = self.load(guesses)
            return passes * pass_s(nodes)

        return min(choices, key=seconds)
