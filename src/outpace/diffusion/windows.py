"""How many steps a round drafts: a fixed number, or what the sample's own acceptance makes worth while."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from outpace.core.errors import OutpaceError
from outpace.core.options import checked, whole
from outpace.diffusion.checks import MOST_WINDOW

FORGET = 0.7  # what a round leaves of the weight of those before it
FIRST_TESTED, FIRST_KEPT = 2.0, 1.7  # what is believed before the first round


class Record:
    """Of each row: drafted steps that were judged and that were kept, the older ones with less weight."""

    def __init__(self, num_rows: int, device: torch.device | str) -> None:
        self.tested = torch.full((num_rows,), FIRST_TESTED, dtype=torch.float64, device=device)
        self.kept = torch.full((num_rows,), FIRST_KEPT, dtype=torch.float64, device=device)

    def learn(self, tested: torch.Tensor, kept: torch.Tensor) -> None:
        """A round's numbers, i64[B] each."""
        self.tested = FORGET * self.tested + tested
        self.kept = FORGET * self.kept + kept

    def rows(self, chosen: torch.Tensor, num_new: int) -> Record:
        """Of some rows, and new ones after them."""
        record = Record(num_new, self.tested.device)
        record.tested = torch.cat([self.tested[chosen], record.tested])
        record.kept = torch.cat([self.kept[chosen], record.kept])
        return record


@runtime_checkable
class Window(Protocol):
    """Chooses lengths. A row's length depends on its own past only: a sample is the same in every batch."""

    most: int

    def lengths(self, record: Record, calls: torch.Tensor) -> torch.Tensor:
        """i64[B]: 1 to most. calls: f64[most], the sequential calls of a round of 1, 2, ... steps."""


class Fixed:
    """Always the same length."""

    def __init__(self, length: int) -> None:
        self.most = whole("window", length, 1, MOST_WINDOW)

    def lengths(self, record: Record, calls: torch.Tensor) -> torch.Tensor:
        """i64[B]: the length."""
        return torch.full_like(record.kept, self.most, dtype=torch.int64)


class Adaptive:
    """The length with the most steps for its price, if each is kept with the rate that was measured.

        steps(L) = (1 - a^L) / (1 - a),    price(L) = calls(L) + price * L

    most   the longest window. price: of one more state in a call, as a share of a call; what
           `outpace diffusion bench` measures.
    """

    @checked
    def __init__(self, most: int = 16, *, price: float = 0.05) -> None:
        if not 0 <= price < float("inf"):
            raise OutpaceError(f"price is {price}, accepted are finite numbers >= 0")
        self.most = whole("most", most, 1, MOST_WINDOW)
        self._price = price

    def lengths(self, record: Record, calls: torch.Tensor) -> torch.Tensor:
        """i64[B]: the best length of each row."""
        rates = (record.kept / record.tested)[:, None]
        lengths = torch.arange(self.most, dtype=torch.float64, device=rates.device)
        steps = (rates**lengths).cumsum(1)
        return (steps / (calls + self._price * (lengths + 1))).argmax(1) + 1
