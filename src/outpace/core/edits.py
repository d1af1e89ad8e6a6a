"""What a request changes in the logits after one node: biases, penalties and masks, as one small value.

An `Edit` has three parts, applied in this order, as transformers applies them:

    biases      logit + added: biases, and bans by -inf
    penalties   logit * penalty where the logit is negative, logit / penalty elsewhere: the repetition penalty
                of Keskar et al. 2019 (CTRL, arXiv:1909.05858) with the rule for signs of transformers
    a mask      -inf for every token whose bit is not set: grammars, which know tokens for certain (`Forcing`)

Single precision throughout. `edited` is the numpy reference of the native sampler and of torch's
(`targets/hf_scores.py`): the same bits.

A `ComputedEdit` is a function instead, of the logits themselves: what a user's code makes of them. It runs
for the nodes that somebody asks about, and for no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outpace.core.errors import OutpaceError
from outpace.core.options import number
from outpace.core.tree import TokenTree

NO_TOKENS, NO_FLOATS = np.zeros(0, np.int32), np.zeros(0, np.float32)
_MOST_ID = 2**31 - 1
PENALTIES = (lambda p: 2.0**-126 <= p <= 2.0**126), "numbers > 0 of single precision"  # for `options.number`


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Edit:
    """Changes of the logits after one node. Arrays are copied: a caller may write into its own again.

    ids       i32[n] tokens, ascending; added: f32[n], what is added to their logits.
    repeated  i32[m] tokens that the penalty is for, ascending; penalty > 0, above 1 makes them less likely.
    allowed   u8[V / 8, rounded up], or as many as make whole words of 32 bits, the mask, or None: token t is
              bit t % 8 of byte t // 8.
    """

    ids: NDArray[np.int32]
    added: NDArray[np.float32]
    repeated: NDArray[np.int32]
    penalty: float
    allowed: NDArray[np.uint8] | None

    def __init__(
        self,
        ids: ArrayLike = (),
        added: ArrayLike = (),
        *,
        repeated: ArrayLike = (),
        penalty: float = 1.0,
        allowed: ArrayLike | None = None,
    ) -> None:
        """Tokens in any order; what is added to one that is there twice adds up, the penalty counts once.

        added: -inf bans, inf is above all that is finite. allowed: bytes, words of 32 bits as llguidance and
        xgrammar fill them, or bool[V].
        Raises an OutpaceError for arrays that do not fit together, and for NaN.
        """
        tokens, biases = _tokens("ids", ids), _floats(added)
        if biases.shape != tokens.shape:
            raise OutpaceError(
                f"an edit has {len(tokens)} ids and {biases.shape} added, accepted is a number for each"
            )
        if not _ascending(tokens):
            tokens, place = np.unique(tokens, return_inverse=True)
            given, biases = biases, np.zeros(len(tokens), np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                np.add.at(biases, place, given)
        if np.isnan(biases).any():
            raise OutpaceError("an edit's added are NaN, or inf and -inf for one token, accepted are numbers")
        again = _tokens("repeated", repeated)
        again = again if _ascending(again) else np.unique(again)
        mask = None if allowed is None else _bits(_array("mask", allowed))
        self._fill(tokens, biases, again, number("penalty", penalty, *PENALTIES), mask)

    @classmethod
    def of_fields(
        cls,
        ids: NDArray[np.int32],
        added: NDArray[np.float32],
        repeated: NDArray[np.int32],
        penalty: float,
        allowed: NDArray[np.uint8] | None,
    ) -> Edit:
        """One of fields as described above, neither checked nor copied: nobody may write into them."""
        edit = cls.__new__(cls)
        edit._fill(ids, added, repeated, penalty, allowed)
        return edit

    def _fill(self, *values: Any) -> None:
        for field, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)

    def within(self, allowed: NDArray[np.uint8]) -> Edit:
        """The edit with a mask more: a token must be in both. The mask is not copied."""
        if self.allowed is not None:
            size = min(len(self.allowed), len(allowed))
            allowed = self.allowed[:size] & allowed[:size]
        return Edit.of_fields(self.ids, self.added, self.repeated, self.penalty, allowed)

    def allows(self, token: int) -> bool:
        """Whether the mask, if there is one, leaves a token."""
        mask = self.allowed
        if mask is None:
            return True
        return 0 <= token < 8 * len(mask) and bool(int(mask[token >> 3]) >> (token & 7) & 1)

    def check(self, vocab_size: int) -> None:
        """Raise an OutpaceError unless the edit is one for so many tokens."""
        for tokens in (self.ids, self.repeated):
            if len(tokens) and tokens[-1] >= vocab_size:
                raise OutpaceError(
                    f"an edit names the token {tokens[-1]}, accepted are ids from 0 to {vocab_size - 1}"
                )
        accepted = (vocab_size + 7) // 8, (vocab_size + 31) // 32 * 4
        if self.allowed is not None and len(self.allowed) not in accepted:
            raise OutpaceError(
                f"an edit's mask has {len(self.allowed)} bytes, accepted are {accepted[0]} for the "
                f"{vocab_size} tokens of the vocabulary, or {accepted[1] // 4} words of 32 bits"
            )


class ComputedEdit:
    """Changes of the logits after one node that a function computes from them: on the host, where one asks.

    compute  raw logits f32[V], its own to write into, -> f32[V]. The same for the same logits.
    known    -> what is known of the changes without the logits, for drafters; a guess but for its mask.
    """

    __slots__ = ("compute", "known")

    def __init__(
        self,
        compute: Callable[[NDArray[np.floating]], NDArray[np.floating]],
        known: Callable[[], Edit | None] = lambda: None,
    ) -> None:
        self.compute = compute
        self.known = known

    def within(self, allowed: NDArray[np.uint8]) -> ComputedEdit:
        """The edit with a mask behind it, which is not copied."""
        mask = Edit.of_fields(NO_TOKENS, NO_FLOATS, NO_TOKENS, 1.0, allowed)

        def known() -> Edit:
            return (self.known() or mask).within(allowed)

        return ComputedEdit(lambda logits: edited(self.compute(logits), mask), known)

    def allows(self, token: int) -> bool:
        """Whether the masks, if there are any, leave a token."""
        known = self.known()
        return known is None or known.allows(token)


AnyEdit = Edit | ComputedEdit
EditAfter = Callable[[Sequence[int]], AnyEdit | None]
"""The tokens below a tree's root down to a node ([] is the root) -> the edit after the node."""
TextEdit = Callable[[Sequence[int], Sequence[int]], AnyEdit | None]
"""(a text, which only grows, tokens drafted behind it) -> the edit after both: what a request has."""


@runtime_checkable
class Forcing(Protocol):
    """An EditAfter that masks, and knows where it leaves no choice: a grammar's."""

    def forced(self, path: Sequence[int]) -> Sequence[int]:
        """The tokens that are certain to come after the path, in their order."""


class ForcingText(Protocol):
    """A TextEdit that knows the same of a text and a path behind it."""

    def __call__(self, text: Sequence[int], path: Sequence[int]) -> AnyEdit | None: ...

    def forced(self, text: Sequence[int], path: Sequence[int]) -> Sequence[int]: ...


class _ForcingAfter:
    """What a ForcingText is behind its text."""

    __slots__ = ("_edit", "_text")

    def __init__(self, edit: ForcingText, text: Sequence[int]) -> None:
        self._edit = edit
        self._text = text

    def __call__(self, path: Sequence[int]) -> AnyEdit | None:
        return self._edit(self._text, path)

    def forced(self, path: Sequence[int]) -> Sequence[int]:
        return self._edit.forced(self._text, path)


def edit_after(edit: TextEdit | ForcingText, text: Sequence[int]) -> EditAfter:
    """A request's edit behind its text; it is `Forcing` where the request's is."""
    return _ForcingAfter(edit, text) if forces(edit) else partial(edit, text)


def forces(edit: TextEdit | ForcingText | None) -> TypeGuard[ForcingText]:
    """Whether a request's edit knows tokens that are certain."""
    return callable(getattr(edit, "forced", None))


def known_edit(edit: AnyEdit | None) -> Edit | None:
    """What drafters may go by, of any edit."""
    return edit.known() if isinstance(edit, ComputedEdit) else edit


def edits_of(after: EditAfter | None, tree: TokenTree) -> list[AnyEdit | None] | None:
    """The edit after every node of a tree; None where there is none at all."""
    if after is None:
        return None
    paths: list[list[int]] = [[]]
    for token, parent in zip(tree.token_list[1:], tree.shape.parent_list[1:], strict=True):
        paths.append([*paths[parent], token])
    edits = [after(path) for path in paths]
    return edits if any(edit is not None for edit in edits) else None


def edited(logits: NDArray[np.floating], edit: AnyEdit | None) -> NDArray[np.floating]:
    """Raw logits f32[V] as edited; the argument itself where there is no edit."""
    if edit is None:
        return logits
    if isinstance(edit, ComputedEdit):
        return edit.compute(logits.copy())
    edit.check(len(logits))
    logits = logits.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        logits[edit.ids] += edit.added
        repeated, penalty = logits[edit.repeated], np.float32(edit.penalty)
        logits[edit.repeated] = np.where(repeated < 0, repeated * penalty, repeated / penalty)
    if edit.allowed is not None:
        logits[np.unpackbits(edit.allowed, count=len(logits), bitorder="little") == 0] = -np.inf
    return logits


def _array(name: str, given: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except ValueError:
        raise OutpaceError(
            f"an edit's {name} has rows of different lengths, accepted is an array of one dimension"
        ) from None


def _tokens(name: str, given: ArrayLike) -> NDArray[np.int32]:
    tokens = _array(name, given)
    if tokens.ndim != 1 or (len(tokens) and tokens.dtype.kind not in "iu"):
        raise OutpaceError(f"an edit's {name} are {tokens.dtype}{list(tokens.shape)}, accepted are token ids")
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() <= _MOST_ID:
        raise OutpaceError(
            f"an edit's {name} are {tokens.min()} to {tokens.max()}, accepted are token ids >= 0"
        )
    return tokens.astype(np.int32)


def _floats(given: ArrayLike) -> NDArray[np.float32]:
    values = _array("added", given)
    if values.dtype.kind not in "iuf":
        raise OutpaceError(f"an edit's added are of {values.dtype}, accepted are numbers")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _ascending(tokens: NDArray[np.int32]) -> bool:
    return bool((tokens[1:] > tokens[:-1]).all())


def _bits(mask: NDArray[Any]) -> NDArray[np.uint8]:
    if mask.ndim == 1 and mask.dtype == np.bool_:
        return np.packbits(mask, bitorder="little")
    if mask.ndim != 1 or mask.dtype not in (np.uint8, np.int32, np.uint32):
        raise OutpaceError(
            f"an edit's mask is {mask.dtype}{list(mask.shape)}, accepted are uint8, uint32 or int32 with a "
            "bit per token, and bool, in one dimension"
        )
    return mask.copy().view(np.uint8)
