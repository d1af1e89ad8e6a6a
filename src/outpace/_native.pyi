"""Types of the native module (`native/bindings.cpp`)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

# ids, added, repeated, penalty, allowed: see `core.edits.Edit`
FlatEdit = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], float, NDArray[np.uint8] | None]

def read_bandwidth(num_threads: int, num_bytes: int, huge: bool = False) -> float: ...
def multiply_add_rate(num_threads: int, quantised: bool) -> float: ...
def instruction_sets() -> list[str]: ...
def multiply(
    kind: str, rows: int, cols: int, data: NDArray[np.uint8], x: NDArray[np.float32]
) -> NDArray[np.float32]: ...
def unpack(kind: str, rows: int, cols: int, data: NDArray[np.uint8]) -> NDArray[np.float32]: ...

class Decoder:
    max_nodes: ClassVar[int]
    max_top: ClassVar[int]
    isa: str
    num_threads: int
    cache_bytes: int
    work: int
    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, tuple[str, int, int, int, int]],
        buffer: NDArray[np.uint8],
        num_threads: int,
        half_cache: bool,
        cache_positions: int,
        beside: Decoder | None = ...,
    ) -> None: ...
    def open(self) -> int: ...
    def fork(self, row: int) -> int: ...
    def fork_at(self, row: int, length: int) -> int: ...
    def close(self, row: int) -> None: ...
    def length(self, row: int) -> int: ...
    def keep(self, row: int, path: Sequence[int]) -> None: ...
    def score(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        tokens: Sequence[int],
        parents: Sequence[int],
        taps: Sequence[int] = ...,
        layers: int = -1,
        skip: Sequence[int] = ...,
    ) -> None: ...
    def score_given(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        parents: Sequence[int],
        given: NDArray[np.float32],
        residuals: NDArray[np.float32],
        whole: bool = ...,
    ) -> None: ...
    def advance(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        tokens: Sequence[int],
        parents: Sequence[int],
        loops: Sequence[int],
        came: Sequence[int],
    ) -> None: ...
    def set_weights(self, buffer: NDArray[np.uint8]) -> None: ...
    def set_fetch(self, tokens: int, level: int, bytes: int, tiles: int) -> None: ...
    def choose(
        self,
        rows: Sequence[tuple[int, int, int, float, int, float, float, int]],
        edits: Sequence[FlatEdit | None] | None = None,
        top: int = 0,
    ) -> list[list[int]]: ...
    def logits(self, nodes: Sequence[int]) -> NDArray[np.float32]: ...
    def top(self, nodes: Sequence[int], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    def hidden(self, tap: int) -> NDArray[np.float32]: ...
    def set_hidden(self, nodes: Sequence[int], states: NDArray[np.float32]) -> None: ...
    def product(
        self, kind: str, rows: int, cols: int, data: NDArray[np.uint8], x: NDArray[np.float32]
    ) -> NDArray[np.float32]: ...
    def product_top(
        self, kind: str, rows: int, cols: int, data: NDArray[np.uint8], x: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
