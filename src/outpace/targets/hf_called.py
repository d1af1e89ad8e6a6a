"""Lists of a call: objects of transformers and of users, which are called with (input_ids, scores)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.core.options import shown


@dataclass(frozen=True, slots=True)
class Listed:
    """What an option may hold.

    option   its name. kinds: what is accepted as the whole; exact: what is, of those in it.
    refused  by their names, classes of transformers that cannot be exact, and why.
    no       types that none of them may be, though they can be called.
    """

    option: str
    kinds: str
    exact: str
    refused: Mapping[str, str]
    no: tuple[type, ...] = (type,)

    def read(self, given: Any) -> list[Any]:
        """What was given, or an OutpaceError for what is no list of them, or cannot be exact."""
        if given is None:
            return []
        if not isinstance(given, list | tuple):
            raise OutpaceError(
                f"{self.option} is {shown(given)}, accepted are {self.kinds}, which are called with "
                "(input_ids, scores)"
            )
        for one in given:
            if not callable(one) or isinstance(one, self.no):
                raise OutpaceError(
                    f"{self.option} has {shown(one)}, accepted are objects that are called with "
                    "(input_ids, scores)"
                )
            for kind in type(one).__mro__:
                if kind.__name__ in self.refused and kind.__module__.startswith("transformers."):
                    raise OutpaceError(
                        f"{self.option} has a {type(one).__name__}, which {self.refused[kind.__name__]}; "
                        f"accepted are {self.exact}"
                    )
        return list(given)
