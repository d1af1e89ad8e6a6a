"""Stopping criteria of transformers and of users, asked about every token that is kept, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StopStringCriteria

from outpace.core.errors import OutpaceError
from outpace.core.options import shown
from outpace.targets.hf_called import Listed

# Criteria of transformers that are no functions of the tokens, or stand in for an option, and why.
_REFUSED = {
    "ConfidenceCriteria": "reads scores",
    "EosTokenCriteria": "takes the place of the end tokens: give eos_token_id",
    "MaxLengthCriteria": "takes the place of max_length: give max_length",
    "MaxTimeCriteria": "reads the clock, by which a text ends elsewhere when it is written sooner",
}
_CRITERIA = Listed(
    option="stopping_criteria",
    kinds="a StoppingCriteriaList and a list of criteria",
    exact="criteria that are functions of input_ids",
    refused=_REFUSED,
)


@dataclass(frozen=True, slots=True)
class Stopping:
    """The criteria of a call, on the model's device."""

    criteria: Sequence[Any]
    device: Any

    def after(self, padding: Sequence[int]) -> Callable[[Sequence[int]], bool]:
        """Whether a row's text, which `padding` stands in front of, ends with its last token."""

        def stops(text: Sequence[int]) -> bool:
            ids = torch.tensor([[*padding, *text]], device=self.device)
            # Each is asked, as transformers asks them.
            return any([_says(one, one(ids, None)) for one in self.criteria])

        return stops


def read_stopping(given: Any, strings: Any, tokenizer: Any, device: Any) -> Stopping | None:
    """The `stopping_criteria` of a call and its `stop_strings`, which need the tokenizer; None for neither.

    Raises an OutpaceError for what is no list of criteria, or cannot be exact.
    """
    criteria = _checked(given)
    if strings is not None:
        if tokenizer is None:
            raise OutpaceError(
                "stop_strings needs the tokenizer, accepted are accelerate(model, tokenizer) and "
                "generate(..., tokenizer=tokenizer)"
            )
        listed = [strings] if isinstance(strings, str) else strings
        if not isinstance(listed, list | tuple) or not all(isinstance(one, str) and one for one in listed):
            raise OutpaceError(
                f"stop_strings is {shown(strings)}, accepted are a text, a list of texts, and None"
            )
        if listed and not any(type(one) is StopStringCriteria for one in criteria):  # which goes before
            criteria.append(StopStringCriteria(stop_strings=list(listed), tokenizer=tokenizer))
    return Stopping(criteria, device) if criteria else None


def _checked(given: Any) -> list[Any]:
    criteria = _CRITERIA.read(given)
    for one in criteria:
        if isinstance(one, list):  # transformers asks a list within a list
            _checked(one)
    return criteria


def _says(criterion: Any, answer: Any) -> bool:
    """What a criterion says of a row; an OutpaceError for anything but one truth."""
    if isinstance(answer, bool):
        return answer
    if isinstance(answer, Tensor) and answer.dtype == torch.bool and answer.numel() == 1:
        return bool(answer)
    is_tensor = isinstance(answer, Tensor)
    found = f"{answer.dtype}{list(answer.shape)}" if is_tensor else f"a {type(answer).__name__}"
    raise OutpaceError(
        f"the stopping criterion {getattr(criterion, '__name__', type(criterion).__name__)} returns {found}, "
        "accepted are torch.bool[1] and a bool"
    )
