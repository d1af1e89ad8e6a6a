"""Hidden states of a native model over texts, computed once and kept on disk: what frozen heads train on.

The engine that will use the heads computes them, rounding and all. A folder holds states.f16 [N, D],
tokens.i32 [N] (the token that each state is of), and spans.i64 [T, 3] (where a text begins, where its answer
begins, where it ends). A text is written whole before the next, so an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.contracts import Tapped
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.train.loop import Progress

STATES, TOKENS, SPANS = "states.f16", "tokens.i32", "spans.i64"
CHUNK = 256  # tokens of one call


@dataclass(frozen=True, slots=True)
class Example:
    """A text as token ids; heads learn on what comes after the first `start` of them."""

    token_ids: Sequence[int]
    start: int


class Features:
    """The states of a folder, mapped; filled by `write_features`."""

    def __init__(self, folder: str | Path, hidden_size: int) -> None:
        folder = Path(folder)
        try:
            spans = np.fromfile(folder / SPANS, np.int64).reshape(-1, 3)
            count = int(spans[-1, 2]) if len(spans) else 0
            self.states = np.memmap(folder / STATES, np.float16, "r", shape=(count, hidden_size))
            self.tokens = np.fromfile(folder / TOKENS, np.int32, count)
        except (OSError, ValueError) as error:
            raise OutpaceError(f"{folder} holds no hidden states that can be read ({error})") from None
        self.spans = spans


def write_features(
    folder: str | Path, target: Tapped, examples: Sequence[Example], *, progress: Progress | None = None
) -> Features:
    """The states of all examples; those that the folder has already are not computed again."""
    folder = Path(folder)
    width = target.hidden_size
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPANS).touch()
        spans = np.fromfile(folder / SPANS, np.int64).reshape(-1, 3)
        done, at = len(spans), int(spans[-1, 2]) if len(spans) else 0
        with (
            (folder / STATES).open("ab") as states,
            (folder / TOKENS).open("ab") as tokens,
            (folder / SPANS).open("ab") as places,
        ):
            states.truncate(at * width * 2)
            tokens.truncate(at * 4)
            for number in range(done, len(examples)):
                example = examples[number]
                states.write(hidden_states(target, example.token_ids).astype(np.float16).tobytes())
                tokens.write(np.asarray(example.token_ids, np.int32).tobytes())
                states.flush()
                tokens.flush()
                end = at + len(example.token_ids)
                places.write(np.array([at, at + example.start, end], np.int64).tobytes())
                places.flush()
                at = end
                if progress is not None:
                    progress(number + 1, len(examples), f"hidden states of {at} tokens")
    except OSError as error:
        raise OutpaceError(f"cannot write {folder}: {error.strerror or error}") from error
    return Features(folder, width)


def hidden_states(target: Tapped, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """f32[N, D] at "final" behind every token of a text."""
    rows, scores = target.prefill([token_ids[:1]])
    parts = [scores.hidden("final")]
    try:
        for first in range(1, len(token_ids), CHUNK):
            chunk = token_ids[first : first + CHUNK]
            scores = target.score(rows, [TokenTree.chain(chunk[0], chunk[1:])])
            parts.append(scores.hidden("final"))
            target.keep(rows, [range(1, len(chunk))])
    finally:
        target.free(rows)
    return np.concatenate(parts)


class FeatureBase:
    """A frozen model as a `Base`, by its states; a batch is i64[n], numbers of states.

    output  token ids -> the rows f32[M, D] of the output matrix; None stands for all.
    """

    module = None

    def __init__(
        self,
        target: Tapped,
        features: Features,
        output: Callable[[NDArray[np.integer] | None], NDArray[np.float32]],
        *,
        name: str,
    ) -> None:
        self.name = name
        self.hidden_size: int = target.hidden_size
        self.vocab_size: int = target.vocab_size
        self.device = torch.device("cpu")
        self._features = features
        self._output = output
        self._fingerprint = target.fingerprint()
        # By state, where its text ends; and the states that come before a token of an answer.
        self._ends = np.zeros(len(features.tokens), np.int64)
        wanted = np.zeros(len(features.tokens), np.bool_)
        for begin, answer, end in features.spans:
            self._ends[begin:end] = end
            wanted[max(begin, answer - 1) : end - 1] = True
        self.places: NDArray[np.int64] = np.flatnonzero(wanted)

    def batches(self, size: int, seed: int) -> Callable[[int], NDArray[np.int64]]:
        """A step's batch: `size` of the places, drawn anew for every step."""
        return lambda step: np.sort(np.random.default_rng((seed, step)).choice(self.places, size))

    def states(self, batch: NDArray[np.int64], num_heads: int) -> tuple[Tensor, Tensor]:
        """See `Base`."""
        ahead = batch[:, None] + np.arange(1, num_heads + 1)
        inside = ahead < self._ends[batch][:, None]
        tokens = self._features.tokens[np.where(inside, ahead, 0)].astype(np.int64)
        states = torch.from_numpy(self._features.states[batch].astype(np.float32))
        return states, torch.from_numpy(np.where(inside, tokens, -100))

    def unembedding(self, token_ids: NDArray[np.integer] | None) -> Callable[[Tensor], Tensor]:
        """See `Base`."""
        weight = torch.from_numpy(self._output(token_ids))
        return lambda states: torch.nn.functional.linear(states, weight)

    def fingerprint(self) -> str:
        """See `Base`."""
        return self._fingerprint

    def save(self, folder: Path) -> None:
        """A frozen model has not changed."""
        raise AssertionError("a frozen model is not saved")
