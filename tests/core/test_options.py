"""Types of options: what each annotation takes, and the one line that the rest gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.core.options import accept, checked, shown, whole, within

if TYPE_CHECKING:
    from somewhere import Unknown  # type: ignore[import-not-found]


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Lines:
    def __repr__(self) -> str:
        return "two\nlines\x1b[31m"


@pytest.mark.parametrize(
    ("kind", "value", "taken"),
    [
        (int, 3, 3),
        (int, -(2**63), -(2**63)),
        (int, 2**64 - 1, 2**64 - 1),
        (int, np.int8(3), 3),
        (int, np.uint64(2**64 - 1), 2**64 - 1),
        (float, 2, 2.0),
        (float, np.float32(0.5), 0.5),
        (float, np.int64(2), 2.0),
        (float, Fraction(1, 2), 0.5),
        (float, float("inf"), float("inf")),
        (bool, True, True),
        (bool, np.False_, False),
        (str, "", ""),
        (str, Path("x/y"), "x/y"),
        (int | None, None, None),
        (float | None, None, None),
        (Literal["a", "b"], "a", "a"),
        (Literal["a", "b"] | None, None, None),
        (str | Path, Path("x"), Path("x")),
        (Callable[[int], None] | None, print, print),
        (Mapping[str, Any] | None, {"a": 1}, {"a": 1}),
        (Mapping[int, float], {np.int64(3): 1.0}, {3: 1.0}),
        (str | Sequence[str], "ab", "ab"),
        (str | Sequence[str], ["a", "b"], ("a", "b")),
        (Sequence[int], np.arange(3), (0, 1, 2)),
        (Sequence[float | None], [1, None], (1.0, None)),
    ],
)
def test_taken(kind: Any, value: Any, taken: Any) -> None:
    found = accept("x", value, kind)
    assert found == taken and type(found) is type(taken)


BEYOND = "whole numbers of 64 bits"


@pytest.mark.parametrize(
    ("kind", "value", "accepted"),
    [
        *((int, value, "whole numbers") for value in (3.5, 3.0, True, np.True_, "3", None, 1j, [3], b"3")),
        *(
            (int, value, "whole numbers")
            for value in (np.float32(3), np.arange(3), np.zeros(1), Rude(), Lines())
        ),
        *((int, value, BEYOND) for value in (2**64, -(2**63) - 1)),
        *(
            (float, value, "numbers")
            for value in ("0.5", None, True, np.False_, float("nan"), np.nan, 1j, [0.5])
        ),
        *(
            (float, value, "numbers")
            for value in (np.zeros(1), np.zeros(2), np.complex64(1 + 2j), np.array(1j))
        ),
        pytest.param(int, 10**5000, BEYOND, id="5001 digits"),
        (float, 10**400, "numbers of 64 bits"),
        *((bool, value, "True and False") for value in (1, 0, "true", None, np.zeros(2, bool))),
        *((str, value, "texts") for value in (b"a", 3, None, ["a"])),
        (int | None, 3.5, "whole numbers and None"),
        (Literal["q8", "q4"] | None, "Q8", "q8, q4 and None"),
        (Literal["f16", "f32"], 16, "f16, f32"),
        (Literal["f16", "f32"], np.array(["f16", "f32"]), "f16, f32"),
        (str | Path, 3, "texts and paths"),
        (Callable[[int], None] | None, 3, "functions and None"),
        (Mapping[str, Any], {1: 2}, "mappings"),
        (Mapping[int, float], {"1": 2}, "mappings"),
        (Mapping[str, Any], [("a", 1)], "mappings"),
        (str | Sequence[str] | None, [b"a"], "texts, lists of texts and None"),
        (Sequence[str], "abc", "lists of texts"),
        (Sequence[int], 3, "lists of whole numbers"),
        (Sequence[int], [1, 2.5], "lists of whole numbers"),
    ],
)
def test_refused_in_one_line(kind: Any, value: Any, accepted: str) -> None:
    with pytest.raises(OutpaceError) as caught:
        accept("width", value, kind)
    message = str(caught.value)
    assert message.startswith("width is ") and message.endswith(f", accepted are {accepted}")
    assert "\n" not in message and len(message) < 160


@pytest.mark.parametrize("value", [0, 8, 3.5, True, None, "3", 2**70, np.arange(3)])
def test_whole_numbers_of_a_range(value: Any) -> None:
    with pytest.raises(OutpaceError, match=r"^n is .*, accepted are whole numbers from 1 to 7 \(hint\)$"):
        whole("n", value, 1, 7, hint=" (hint)")
    assert whole("n", np.int16(7), 1, 7) == 7


@pytest.mark.parametrize(
    ("bounds", "options", "message"),
    [
        ((1,), {"size": 1, "depth": 0}, "it has depth=0, accepted are whole numbers >= 1"),
        ((0,), {"gain": -0.5}, "it has gain=-0.5, accepted are numbers >= 0"),
        ((0, 1), {"a": 1.0, "b": 1.5, "c": 2.0}, "it has b=1.5, accepted are numbers from 0 to 1"),
        ((1, 2**20), {"mb": 2**20 + 1}, "it has mb=1048577, accepted are whole numbers from 1 to 1048576"),
    ],
)
def test_options_of_a_method(bounds: tuple[float, ...], options: dict[str, float], message: str) -> None:
    with pytest.raises(OutpaceError) as raised:
        within("it", *bounds, **options)
    assert str(raised.value) == message
    within("it", *bounds, least=bounds[0], most=bounds[-1])


def test_values_are_shown_short() -> None:
    assert len(shown(list(range(10**6)))) <= 80 and len(shown("a" * 10**6)) <= 80
    assert shown(10**5000) == "of type int"
    assert not set("\n\x1b") & set(shown(Rude()) + shown(Lines()))


class Made:
    """Its annotations are texts, and two of them are of another library."""

    @checked
    def __init__(
        self,
        first: int = 1,
        *,
        size: int = 3,
        rate: float | None = None,
        mode: Literal["a", "b"] = "a",
        other: Unknown | None = None,
        either: str | Unknown = "",
    ) -> None:
        self.given = first, size, rate, mode, other, either


def test_options_of_a_call_are_checked_by_its_annotations() -> None:
    made: Any = Made
    assert made("as it is", size=np.int32(4), rate=1, other=3, either=4).given == (
        "as it is", 4, 1.0, "a", 3, 4,
    )  # fmt: skip
    wrong: list[dict[str, Any]] = [{"size": 4.0}, {"size": None}, {"rate": "1"}, {"mode": "c"}]
    for options in wrong:
        with pytest.raises(OutpaceError, match=f"^{next(iter(options))} is "):
            Made(**options)
    with pytest.raises(TypeError, match="unexpected keyword"):
        Made(colour=3)  # type: ignore[call-arg]
