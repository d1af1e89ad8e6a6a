"""Fields of a foreign config.json, each checked when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outpace.core.errors import FormatError
from outpace.files.config import brief
from outpace.heads.folder import MAX_SIZE


class Fields:
    """An object of a config.json; null is as good as absent. FormatError where a field is something else.

    path  the file. inside: the object's own name in it, with a dot, or "".
    """

    def __init__(self, path: Path, values: Mapping[str, Any], inside: str = "") -> None:
        self.path, self._values, self._inside = path, values, inside

    def get(self, name: str) -> Any:
        """What stands there, or None."""
        return self._values.get(name)

    def fault(self, name: str, accepted: str) -> FormatError:
        """What to say of a field that is something else."""
        return FormatError(
            f"{self.path}: {self._inside}{name} is {brief(self.get(name))}, accepted {accepted}"
        )

    def size(self, name: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """A whole number from 1 to `most`; without a default it has to be there."""
        value = self.get(name)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= most:
            raise self.fault(name, f"are whole numbers from 1 to {most}")
        return value

    def flag(self, name: str) -> bool:
        """true or false; false where it is absent."""
        value = self.get(name)
        if value is not None and type(value) is not bool:
            raise self.fault(name, "are true and false")
        return bool(value)

    def number(self, name: str, default: float, above: float, most: float) -> float:
        """A number above one bound, up to the other."""
        value = self.get(name)
        value = default if value is None else value
        # A whole number may be too long for any float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
            raise self.fault(name, f"are numbers above {above:g}, up to {most:g}")
        return float(value)

    def text(self, name: str) -> str:
        """A text; "" where it is absent."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise self.fault(name, "is a text")
        return value or ""

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; none where it is absent."""
        value = self.get(name) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.fault(name, "is a list of texts")
        return tuple(value)

    def within(self, name: str, *, needed: bool = False) -> Fields:
        """An object within; empty where it is absent."""
        value = self.get(name)
        if not isinstance(value, dict) and (needed or value is not None):
            raise self.fault(name, "is an object")
        return Fields(self.path, value or {}, f"{self._inside}{name}.")

    def table(self, name: str) -> dict[str, Any]:
        """An object within, as it is; empty where it is absent."""
        return dict(self.within(name)._values)

    def one_of(self, name: str, accepted: tuple[object, ...]) -> None:
        """Refuses anything else; absent is well."""
        value = self.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in accepted):
            raise self.fault(name, "is " + " or ".join(str(one) for one in accepted))
