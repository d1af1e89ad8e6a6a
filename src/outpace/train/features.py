"""Hidden states of a native model over answers, kept on disk: what frozen heads are trained on.

The engine that will use the heads computes them, rounding and all. A folder holds tokens.i32 [N], states.f16
[N, D] (states[n] is what token n was chosen from) and ends.i64 [T] (where each text's tokens end). A text is
written whole before the next, so an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.call import Call
from outpace.core.contracts import Tapped
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.progress import Progress
from outpace.train.recording import FINAL, kept_states

STATES, TOKENS, ENDS = "states.f16", "tokens.i32", "ends.i64"
CHUNK = 256  # tokens of one call


class FeatureFile:
    """The states of a folder, which grow text by text."""

    def __init__(self, folder: str | Path, hidden_size: int) -> None:
        self.folder = Path(folder)
        self.hidden_size = hidden_size
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (STATES, TOKENS, ENDS):
                path = self.folder / name
                path.touch()
                if not path.is_file():
                    raise OutpaceError(f"{path} is not a regular file; remove the folder to begin anew")
            self.keep(len(np.fromfile(self.folder / ENDS, np.int64)))
        except OSError as error:
            raise self._unwritable(error) from error

    @property
    def num_texts(self) -> int:
        """How many texts it holds."""
        return (self.folder / ENDS).stat().st_size // 8

    @property
    def num_tokens(self) -> int:
        """How many tokens they have."""
        ends = np.fromfile(self.folder / ENDS, np.int64)
        return int(ends[-1]) if len(ends) else 0

    def tokens(self) -> NDArray[np.int32]:
        """i32[N]."""
        return np.fromfile(self.folder / TOKENS, np.int32, self.num_tokens)

    def keep(self, num_texts: int) -> None:
        """Forget all but the first texts, and what an interruption has left half written."""
        ends = np.fromfile(self.folder / ENDS, np.int64)[:num_texts]
        count = int(ends[-1]) if len(ends) else 0
        if (ends < 0).any() or (ends[1:] < ends[:-1]).any():
            raise OutpaceError(f"{self.folder / ENDS} is damaged; remove the folder to begin anew")
        for name, size in (
            (ENDS, 8 * len(ends)),
            (TOKENS, 4 * count),
            (STATES, 2 * self.hidden_size * count),
        ):
            path = self.folder / name
            if path.stat().st_size < size:
                raise OutpaceError(f"{path} is shorter than {ENDS} says; remove the folder to begin anew")
            with path.open("rb+") as file:
                file.truncate(size)

    def add(self, texts: Sequence[tuple[NDArray[np.float16], Sequence[int]]]) -> None:
        """Texts as (states f16[n, D], n tokens)."""
        try:
            end = self.num_tokens
            for states, tokens in texts:
                assert states.shape == (len(tokens), self.hidden_size), "a state for every token"
                end += len(tokens)
                # The end last: what it does not cover does not count.
                for name, array in (
                    (STATES, states.astype(np.float16)),
                    (TOKENS, np.asarray(tokens, np.int32)),
                    (ENDS, np.array([end], np.int64)),
                ):
                    with (self.folder / name).open("ab") as file:
                        file.write(array.tobytes())
        except OSError as error:
            raise self._unwritable(error) from error

    def read(self) -> Features:
        """What it holds now, mapped."""
        count = self.num_tokens
        if not count:
            raise OutpaceError(f"{self.folder} holds no hidden states, accepted are texts with answers")
        return Features(
            np.memmap(self.folder / STATES, np.float16, "r", shape=(count, self.hidden_size)),
            self.tokens(),
            np.fromfile(self.folder / ENDS, np.int64),
        )

    def _unwritable(self, error: OSError) -> OutpaceError:
        return OutpaceError(f"cannot write {self.folder}: {error.strerror or error}")


@dataclass(frozen=True, slots=True)
class Features:
    """states f16[N, D], tokens i32[N], ends i64[T]: see `FeatureFile`."""

    states: NDArray[np.float16]
    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]

    def __post_init__(self) -> None:
        assert self.states.ndim == 2 and self.tokens.shape == self.states.shape[:1], "a state for every token"
        assert self.ends.ndim == 1 and self.ends[-1] == len(self.tokens), "texts that end with the last token"


def add_answers(
    file: FeatureFile,
    target: Tapped,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    taps: Sequence[str] = (FINAL,),
    progress: Progress | None = None,
) -> None:
    """The states of all (prompt, answer) pairs, at these taps one behind the other.

    Those that the file has already are not computed again.
    """
    texts = [([*prompt, *answer], len(prompt)) for prompt, answer in pairs]
    add_texts(file, target, texts, taps=taps, progress=progress)


def add_texts(
    file: FeatureFile,
    target: Tapped,
    texts: Sequence[tuple[Sequence[int], int]],
    *,
    taps: Sequence[str] = (FINAL,),
    progress: Progress | None = None,
) -> None:
    """As `add_answers`, of (text, the number of the first token whose state counts, 1 or more)."""
    done = [token for text, first in texts[: file.num_texts] for token in text[first:]]
    if file.num_texts > len(texts) or file.tokens().tolist() != done:
        raise OutpaceError(f"{file.folder} holds states of other data, accepted are the same or a new folder")
    for number in range(file.num_texts, len(texts)):
        text, first = texts[number]
        states = hidden_states(target, text[:-1], taps)[first - 1 :]
        file.add([(states, text[first:])])
        if progress is not None:
            progress(number + 1, len(texts), f"hidden states of {number + 1} texts")


def hidden_states(
    target: Tapped, token_ids: Sequence[int], taps: Sequence[str] = (FINAL,)
) -> NDArray[np.float16]:
    """f16[N, T * D], `kept_states` behind every token of a text, at T taps that the target offers."""
    row, parts = target.open(), []
    try:
        for first in range(0, len(token_ids), CHUNK):
            chunk = token_ids[first : first + CHUNK]
            scores = target.score([Call.on(row, TokenTree.chain(chunk[0], chunk[1:]))])
            parts.append(kept_states(taps, scores.hidden))
            target.keep([row], [range(1, len(chunk))])
    finally:
        target.free([row])
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
        tokens = features.tokens
        if tokens.min() < 0 or tokens.max() >= target.vocab_size:
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise OutpaceError(
                f"{TOKENS} of the hidden states has the token id {wrong}, accepted are 0 to"
                f" {target.vocab_size - 1}; remove their folder to begin anew"
            )
        lengths = np.diff(features.ends, prepend=0)
        self._ends = np.repeat(features.ends, lengths)  # by token, where its text ends

    def batches(self, size: int, seed: int) -> Callable[[int], NDArray[np.int64]]:
        """A step's batch: `size` of the states, drawn anew for every step."""
        total = len(self._ends)
        return lambda step: np.sort(np.random.default_rng((seed, step)).integers(0, total, size))

    def states(self, batch: NDArray[np.int64], num_heads: int) -> tuple[Tensor, Tensor]:
        """See `Base`."""
        ahead = batch[:, None] + np.arange(num_heads)
        inside = ahead < self._ends[batch][:, None]
        tokens = self._features.tokens[np.where(inside, ahead, 0)].astype(np.int64)
        states = torch.from_numpy(self._features.states[batch].astype(np.float32))
        if not states.isfinite().all():
            raise OutpaceError(f"{STATES} holds numbers that are none; remove its folder to begin anew")
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
