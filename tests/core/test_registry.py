"""Registries: specs, options, error messages, lazy imports and entry points."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core import registry as registry_module
from outpace.core.errors import OutpaceError
from outpace.core.registry import Registry, value_text


class Thing:
    """Options of every type, and a target from the context."""

    def __init__(
        self,
        target: object = None,
        *,
        n: int = 1,
        x: float = 0.5,
        on: bool = True,
        tag: str = "a",
        cap: int | None = None,
    ) -> None:
        self.values = (target, n, x, on, tag, cap)


def plain(*, tokenizer: object = None) -> str:
    return "plain"


def needy(*, path: str, size: int = 1) -> str:
    return path


def unreadable(*, path: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """A name that exists for type checkers only."""


THINGS = Registry(
    "thing",
    {"thing": f"{__name__}:Thing", "plain": f"{__name__}:plain", "lazy": "not.importable:Nothing"},
    "outpace.test_things",
)
NEEDY = Registry(
    "thing",
    {"needy": f"{__name__}:needy", "unreadable": f"{__name__}:unreadable"},
    "outpace.test_needy_things",
)


def test_parse_and_create() -> None:
    assert THINGS.parse("thing") == ("thing", {})
    options = {"n": 3, "x": 1e-3, "on": False, "tag": "b=c", "cap": 9}
    assert THINGS.parse(" thing: n=3, x=1e-3,on=FALSE,tag=b=c,cap=9,") == ("thing", options)
    assert THINGS.create("thing:n=2,cap=none", target="T", tokenizer="U").values == (
        "T",
        2,
        0.5,
        True,
        "a",
        None,
    )
    assert THINGS.create("plain") == "plain"


def test_options_are_the_keyword_only_values_of_the_constructor() -> None:
    assert list(THINGS.options("thing")) == ["n", "x", "on", "tag", "cap"]
    assert THINGS.options("thing")["n"].default == 1
    assert not THINGS.options("plain")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "n": st.integers(-(2**63), 2**64 - 1),
            "x": st.floats(allow_nan=False),
            "on": st.booleans(),
            "tag": st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
            "cap": st.none() | st.integers(0, 2**63),
        },
    )
)
def test_round_trip(options: dict[str, object]) -> None:
    spec = ",".join(f"{key}={value_text(value)}" for key, value in options.items())
    assert THINGS.parse(f"thing:{spec}") == ("thing", options)


@pytest.mark.parametrize(
    ("spec", "accepted"),
    [
        ("ngrams", "unknown thing 'ngrams', accepted are lazy, plain, thing"),
        ("", "unknown thing '', accepted are lazy, plain, thing"),
        ("thing:n=3,x=1,n=4", "thing 'thing' has n twice, accepted is once"),
        ("thing:m=3", "thing 'thing' has no option 'm', accepted are n, x, on, tag, cap"),
        ("thing:target=3", "has no option 'target', accepted are n, x, on, tag, cap"),
        ("plain:n=3", "thing 'plain' has no option 'n', accepted are none"),
        ("thing:n", "'n' is not of the form key=value"),
        ("thing:n=three", "thing 'thing' has n='three', accepted are whole numbers"),
        ("thing:n=1.5", "whole numbers"),
        ("thing:n=99999999999999999999", "accepted are whole numbers"),
        pytest.param(f"thing:n={'9' * 5000}", "accepted are whole numbers", id="5000 digits"),
        ("thing:x=nan", "thing 'thing' has x='nan', accepted are numbers"),
        ("thing:x=big", "accepted are numbers"),
        ("thing:on=maybe", "accepted are true, false"),
        ("thing:cap=x", "accepted are whole numbers, none"),
    ],
)
def test_errors_name_what_is_accepted(spec: str, accepted: str) -> None:
    with pytest.raises(OutpaceError) as error:
        THINGS.create(spec)
    assert accepted in str(error.value) and "\n" not in str(error.value)


def test_an_option_without_a_default_is_needed() -> None:
    assert NEEDY.create("needy:path=a b") == "a b"
    with pytest.raises(OutpaceError, match=r"^thing 'needy' needs path=\.\.\.$"):
        NEEDY.parse("needy:size=2")


def test_options_that_cannot_be_read_are_one_line() -> None:
    with pytest.raises(OutpaceError, match="'unreadable' has options that cannot be read: name 'Nowhere'"):
        NEEDY.parse("unreadable")


def test_listing_imports_nothing() -> None:
    assert THINGS.names() == ["lazy", "plain", "thing"]
    assert "not" not in sys.modules
    with pytest.raises(
        OutpaceError, match=r"^the thing 'lazy' cannot be loaded: ModuleNotFoundError: No mod"
    ):
        THINGS.create("lazy")


def test_entry_points_add_names_and_do_not_replace_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("theirs", f"{__name__}:Thing", "outpace.test_things"),
        EntryPoint("plain", f"{__name__}:Thing", "outpace.test_things"),
    ]

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [p for p in points if group == p.group and name in (None, p.name)]

    monkeypatch.setattr(registry_module, "entry_points", entry_points)
    assert THINGS.names() == ["lazy", "plain", "theirs", "thing"]
    assert THINGS.create("theirs:n=7").values[1] == 7
    assert THINGS.create("plain") == "plain"
