"""Every option of every drafter, tree and rule refuses what is not of its type, before anything is made."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.core.registry import Registry
from outpace.drafters import DRAFTERS
from outpace.rules import RULES
from outpace.trees import TREES

WRONG: dict[str, list[Any]] = {
    "int": [1.5, True, "3", [3], np.float64(3), 2**70, -(10**400)],
    "float": ["0.5", True, float("nan"), [0.5], 1j, 10**400],
    "bool": [1, "true", np.int8(1)],
    "str": [3, b"a", ["a"]],
}
CASES = [
    (registry, name, option)
    for registry in (DRAFTERS, TREES, RULES)
    for name in sorted(registry._table)
    for option in registry.options(name)
]


@pytest.mark.parametrize(
    ("registry", "name", "option"), CASES, ids=lambda case: getattr(case, "kind", str(case))
)
def test_wrong_types_name_the_option(registry: Registry, name: str, option: str) -> None:
    annotation = inspect.formatannotation(registry.options(name)[option].annotation)
    kind, _, none = annotation.partition(" | ")
    for value in [*WRONG[kind], *([] if none else [None])]:
        with pytest.raises(OutpaceError) as caught:
            registry.factory(name)(**{option: value})
        message = str(caught.value)
        assert message.startswith(f"{option} is ") and ", accepted are " in message and "\n" not in message
