"""What a call changes in the model's choice of tokens: biases, penalties, and where a text may end.

The options that servers have, by their names there, as `Rules` of `processors.py`: drafts are judged by what
they make of the logits behind every node, so the text is that of plain decoding with them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from outpace.core.contracts import Target
from outpace.core.edits import PENALTIES
from outpace.core.errors import OutpaceError
from outpace.core.options import MOST, number, taken, whole
from outpace.engine.request import Request
from outpace.models.processors import Place, Processors, Rules

if TYPE_CHECKING:
    from outpace.models.wanted import Wanted


class Choosing(TypedDict, total=False):
    """Options of a call.

    logit_bias          by token id, what is added to its logit; -inf bans it.
    presence_penalty    what every token loses that has been written in the answer.
    frequency_penalty   the same, as often as it was (both as OpenAI counts them).
    repetition_penalty  by what logits of tokens in the prompt and the answer are divided, where they are
                        negative multiplied (as transformers does); 1 changes nothing.
    min_tokens          so many tokens are written before the text may end by itself.
    ignore_eos          the text does not end by itself.
    stop_token_ids      tokens that end it too.
    """

    logit_bias: Annotated[Mapping[int, float] | None, None]
    presence_penalty: Annotated[float, 0.0]
    frequency_penalty: Annotated[float, 0.0]
    repetition_penalty: Annotated[float, 1.0]
    min_tokens: Annotated[int, 0]
    ignore_eos: Annotated[bool, False]
    stop_token_ids: Annotated[Sequence[int] | None, None]


OWN_NAMES = frozenset(Choosing.__annotations__) - {"repetition_penalty"}
"""What transformers has no names for, or others."""


def with_choosing(request: Request, chosen: Choosing, target: Target) -> Request:
    """The request with these options; an OutpaceError for values out of range."""
    ends = _ends(chosen, target.eos_ids if request.eos_ids is None else request.eos_ids, target.vocab_size)
    least = whole("min_tokens", chosen["min_tokens"], 0, max(0, request.max_tokens), hint=" (max_tokens)")
    rules = replace(
        _added(chosen, target.vocab_size),
        penalty=number("repetition_penalty", chosen["repetition_penalty"], *PENALTIES),
        ends=ends if least else frozenset(),
    )
    edit = request.edit
    if rules != Rules():
        first = len(request.prompt)
        edit = Processors(rules, Place(target.vocab_size, first, first + least, first + request.max_tokens))
    return replace(request, eos_ids=ends, edit=edit)


def own_names(given: dict[str, Any]) -> Choosing:
    """Takes the options of OWN_NAMES out of `given`, which has those of transformers too."""
    if "min_tokens" in given and "min_new_tokens" in given:
        raise OutpaceError("min_tokens and min_new_tokens are given, accepted is one of them")
    return taken(Choosing, {name: given.pop(name) for name in OWN_NAMES if name in given})


def with_own_names(wanted: Wanted, chosen: Choosing, vocab_size: int) -> Wanted:
    """The wishes of a call with `own_names`; an OutpaceError for values out of range."""
    most = MOST if wanted.max_new_tokens is None else wanted.max_new_tokens
    least = whole("min_tokens", chosen["min_tokens"], 0, most, hint=" (max_tokens)")
    ends = _ends(chosen, wanted.eos_ids, vocab_size)
    return replace(
        wanted,
        eos_ids=ends,
        min_new_tokens=least or wanted.min_new_tokens,
        rules=replace(wanted.rules, ends=ends),
        own=_added(chosen, vocab_size),
    )


def _ends(chosen: Choosing, ends: Collection[int], vocab_size: int) -> frozenset[int]:
    more = {whole("stop_token_ids", one, 0, vocab_size - 1) for one in chosen["stop_token_ids"] or ()}
    return frozenset(more if chosen["ignore_eos"] else {*ends, *more})


def _added(chosen: Choosing, vocab_size: int) -> Rules:
    """What is added to logits."""
    finite = math.isfinite, "finite numbers"
    return Rules(
        biases=tuple(((token,), bias) for token, bias in _biases(chosen["logit_bias"], vocab_size)),
        presence=number("presence_penalty", chosen["presence_penalty"], *finite),
        frequency=number("frequency_penalty", chosen["frequency_penalty"], *finite),
    )


def _biases(given: Mapping[int, float] | None, vocab_size: int) -> list[tuple[int, float]]:
    found = [
        (
            whole("logit_bias token", token, 0, vocab_size - 1),
            number("logit_bias", bias, lambda bias: not math.isnan(bias), "numbers"),
        )
        for token, bias in (given or {}).items()
    ]
    if len(found) == vocab_size and all(bias == -math.inf for _, bias in found):
        raise OutpaceError("logit_bias bans every token, accepted are some that may be chosen")
    return found
