"""The weights of a mixture's sources: measured success, by the length of a match and the depth in a tree.

One step of expectation maximisation for each true token: Dempster, Laird & Rubin 1977, "Maximum likelihood
from incomplete data via the EM algorithm". See `mix.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

PRIOR = 8.0  # how many observations the weights over all contexts count for

Guesses = Sequence[tuple[int, float]]
Key = tuple[int, int, int]  # length of the best match, depth (both capped), sources that had a say (bits)


class Weights:
    """How much each source, and in the last place nobody, has contributed to true tokens, by key."""

    def __init__(self, num_sources: int) -> None:
        self._all = [1.0] * (num_sources + 1)
        self._by_key: dict[Key, list[float]] = {}
        self._before: tuple[list[float], dict[Key, list[float]]] | None = None
        self._ready: dict[Key, list[float]] = {}  # the weights of keys, until they learn

    def copy(self) -> Weights:
        """An independent copy that remembers what it began with."""
        other = Weights(len(self._all) - 1)
        other._all = list(self._all)
        other._by_key = {key: list(counts) for key, counts in self._by_key.items()}
        other._before = list(self._all), {key: list(counts) for key, counts in self._by_key.items()}
        return other

    def add(self, row: Weights) -> None:
        """Add what a copy has learnt since it was made."""
        assert row._before is not None
        start, by_key = row._before
        self._all = [a + b - c for a, b, c in zip(self._all, row._all, start, strict=True)]
        zeros = [0.0] * len(start)
        for key, counts in row._by_key.items():
            mine, began = self._by_key.get(key, zeros), by_key.get(key, zeros)
            self._by_key[key] = [a + b - c for a, b, c in zip(mine, counts, began, strict=True)]

    def of(self, key: Key) -> list[float]:
        """The sources' weights; with nobody's they sum to 1."""
        ready = self._ready.get(key)
        if ready is None:
            counts = self._by_key.get(key) or [0.0] * len(self._all)
            total, share = sum(counts) + PRIOR, PRIOR / sum(self._all)
            ready = [(count + share * one) / total for count, one in zip(counts, self._all, strict=True)][:-1]
            self._ready[key] = ready
        return ready

    def mixture(self, key: Key, expected: Sequence[Guesses]) -> dict[int, float]:
        """{token: probability} under the weights of a key."""
        mixed: dict[int, float] = {}
        for weight, pairs in zip(self.of(key), expected, strict=True):
            for token, p in pairs:
                if token in mixed:
                    mixed[token] += weight * p
                else:
                    mixed[token] = weight * p
        return mixed

    def learn(self, key: Key, expected: Sequence[Guesses], token: int, *, overall: bool = True) -> None:
        """The token came: share one count among the sources that expected it.

        overall  whether it counts for the weights over all contexts too: once for each token.
        """
        shares = [
            weight * next((p for other, p in pairs if other == token), 0.0)
            for weight, pairs in zip(self.of(key), expected, strict=True)
        ]
        total = sum(shares)
        shares = [share / total for share in shares] if total else shares
        counts = self._by_key.setdefault(key, [0.0] * len(self._all))
        for s, share in enumerate([*shares, 0.0 if total else 1.0]):
            counts[s] += share
            self._all[s] += 0.1 * share * overall
        self._ready.pop(key, None)
