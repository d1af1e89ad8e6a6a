"""Pictures out of the engine: the small ones as prompts, every intensity a token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Drafter, Rule
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, result_of
from outpace.engine.request import Generation, Request
from outpace.rules.match import Match
from outpace.targets.pixel import PixelTarget, pixel_prompt


def decode(
    target: PixelTarget,
    smalls: NDArray[np.uint8],
    drafter: Drafter | None = None,
    rule: Rule | None = None,
    *,
    max_tokens: int | None = None,
) -> list[Generation]:
    """The pictures of small ones u8[n, h, w, C], side by side; greedy without a drafter and a rule."""
    max_tokens = max_tokens or target.context_length
    requests: Sequence[Request] = [Request(pixel_prompt(small), max_tokens=max_tokens) for small in smalls]
    return result_of(events(target, drafter or NoDraft(), rule or Match(), requests))
