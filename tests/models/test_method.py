"""Methods as texts: a draft, its tree, its rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.errors import OutpaceError
from outpace.models.method import Method


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("ngram", Method("ngram")),
        (" ngram:length=3 rule=block ", Method("ngram:length=3", None, "block")),
        ("a:model=x y.gguf  tree=t:size=20 rule=b:k=2", Method("a:model=x y.gguf", "t:size=20", "b:k=2")),
        ("a rule=r tree=t", Method("a", "t", "r")),
        ("mix:drafts=a+[b:x=[c tree=d]] tree=e", Method("mix:drafts=a+[b:x=[c tree=d]]", "e")),
        ("a:retree=3", Method("a:retree=3")),
    ],
)  # fmt: skip
def test_parse(text: str, method: Method) -> None:
    assert Method.parse(text) == method
    assert Method.parse(str(method)) == method


def test_a_text_wins_over_what_is_given_for_all() -> None:
    assert Method.parse("a", tree="t", rule="r") == Method("a", "t", "r")
    assert Method.parse("a tree=u rule=match", tree="t", rule="r") == Method("a", "u", "match")


@pytest.mark.parametrize("text", ["a tree=b tree=c", "a rule=b tree=c rule=d"])
def test_naming_a_part_twice_is_an_error(text: str) -> None:
    with pytest.raises(OutpaceError, match="twice, accepted is DRAFT tree=TREE rule=RULE"):
        Method.parse(text)


word = st.text("abz:=,+0", min_size=1).map(lambda text: f"n{text}")
spec = st.one_of(word, word.map(lambda text: f"[{text} rule=x]"))


@given(spec, st.none() | spec, spec)
def test_round_trip(draft: str, tree: str | None, rule: str) -> None:
    method = Method(draft, tree, rule)
    assert Method.parse(str(method)) == method


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ngrams", "unknown drafter 'ngrams'"),
        ("ngram rule=ngram", "unknown rule 'ngram'"),
        ("ngram tree=chain", "'ngram' takes no tree"),
        ("ngram:min_n=4", "min_n=4"),
        ("ngram tree=chain:min_p=2", "min_p=2"),
    ],
)
def test_check_needs_no_model(text: str, said: str) -> None:
    with pytest.raises(OutpaceError, match=said):
        Method.parse(text).check()
