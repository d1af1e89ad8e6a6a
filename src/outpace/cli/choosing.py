"""Options of the command line that change the choice of tokens, as keyword arguments of the library."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from outpace.core.errors import OutpaceError
from outpace.core.options import whole

LogitBias = Annotated[
    list[str] | None,
    typer.Option(
        "--logit-bias", metavar="ID=X", help="Add X to a token's logit, -inf bans it; may be repeated."
    ),
]
Presence = Annotated[
    float, typer.Option("--presence-penalty", metavar="X", help="What tokens lose that were written.")
]
Frequency = Annotated[
    float, typer.Option("--frequency-penalty", metavar="X", help="The same, as often as they were.")
]
Repetition = Annotated[
    float,
    typer.Option(
        "--repetition-penalty", metavar="X", help="Divides logits of tokens seen; 1 changes nothing."
    ),
]
MinTokens = Annotated[
    int, typer.Option("--min-tokens", metavar="N", help="Tokens before a text may end by itself.")
]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="A text does not end by itself.")]
StopTokens = Annotated[
    list[int] | None,
    typer.Option("--stop-token", metavar="ID", help="A token that ends a text too; may be repeated."),
]

Logprobs = Annotated[
    int | None,
    typer.Option(
        "--logprobs",
        metavar="N",
        help="With --json: how likely every token was, and N of the likeliest, up to 20.",
    ),
]


def choosing_options(
    biases: list[str] | None,
    presence: float,
    frequency: float,
    repetition: float,
    min_tokens: int,
    ignore_eos: bool,
    stop_tokens: list[int] | None,
) -> dict[str, Any]:
    """Those that are not as they would be anyway. Raises OutpaceError for a bias that is none."""
    given = {
        "logit_bias": dict(map(_bias, biases or ())) or None,
        "presence_penalty": presence,
        "frequency_penalty": frequency,
        "repetition_penalty": repetition,
        "min_tokens": min_tokens,
        "ignore_eos": ignore_eos,
        "stop_token_ids": stop_tokens or None,
    }
    usual = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "min_tokens": 0}
    return {
        name: value
        for name, value in given.items()
        if value not in (None, False) and (name not in usual or value != usual[name])
    }


def logprobs_option(count: int | None, *, as_json: bool) -> dict[str, int]:
    """The option, if it is given. Raises OutpaceError for one out of range, and without a record."""
    if count is None:
        return {}
    if not as_json:
        raise OutpaceError("--logprobs is a part of the record, accepted is --json with it")
    from outpace.engine.logprobs import MOST

    return {"logprobs": whole("--logprobs", count, 0, MOST)}


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise OutpaceError(f"--logit-bias is {text!r}, accepted is ID=X, a token id and a number") from None
