"""Retrieval against a linear scan of the corpus."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.errors import FormatError, OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.backoff import table_for
from outpace.drafters.lookup.retrieval import Retrieval
from outpace.files.backoff import write_backoff
from outpace.files.datastore import END, vocabulary_id, write_datastore
from tests.rows import NO_SCORES

VOCAB_SIZE = 4
TOKENIZER = SimpleNamespace(text_bytes={token: bytes([97 + token]) for token in range(VOCAB_SIZE)})
TARGET: Any = SimpleNamespace(vocab_size=VOCAB_SIZE)
TEXTS = [[1, 2, 3, 1, 2, 0], *np.random.default_rng(0).integers(0, VOCAB_SIZE, (4, 40)).tolist(), [3] * 20]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return store(tmp_path_factory.mktemp("store") / "x", TEXTS)


def store(path: Path, texts: list[list[int]]) -> str:
    vocabulary = vocabulary_id(TOKENIZER.text_bytes, VOCAB_SIZE)
    write_datastore(path, texts, vocab_size=VOCAB_SIZE, vocabulary=vocabulary)
    return str(path)


def retrieval(path: str, **options: Any) -> Retrieval:
    return Retrieval(path=path, target=TARGET, tokenizer=TOKENIZER, **options)


def ask(root: int, *, budget: int = 99, depth: int = 99) -> Ask:
    return Ask(root, 0, Sampling(), budget, depth)


def step(tokens: list[int]) -> Step:
    tree = TokenTree.chain(0, tokens[:-1])
    return Step(tree, NO_SCORES, Verdict(list(range(1, len(tokens))), tokens[-1], "identical"))


def shares(text: list[int], *, min_n: int, max_n: int, length: int) -> dict[tuple[int, ...], float]:
    """For every string that follows the longest suffix somewhere: the share of the occurrences it follows."""
    for n in range(min(max_n, len(text)), min_n - 1, -1):
        places = [
            (row, at + n) for row in TEXTS for at in range(len(row) - n + 1) if row[at : at + n] == text[-n:]
        ]
        if places:
            ahead = [row[at : at + length] for row, at in places]
            counts = Counter(tuple(a[:k]) for a in ahead for k in range(1, len(a) + 1))
            return {string: count / len(places) for string, count in counts.items()}
    return {}


def paths(tree: TokenTree) -> list[tuple[int, ...]]:
    """The string of tokens down to every drafted node."""
    tokens = tree.token_list
    return [tuple(tokens[i] for i in tree.shape.path_to(node)[1:]) for node in range(1, tree.num_nodes)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=12),
    st.lists(st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=4), max_size=6),
    st.integers(1, 4),
    st.integers(0, 6),
    st.integers(1, 5),
    st.integers(1, 30),
    st.sampled_from([0.0, 0.2, 0.5]),
)
def test_equals_a_linear_scan(
    path: str,
    prompt: list[int],
    blocks: list[list[int]],
    min_n: int,
    more: int,
    length: int,
    size: int,
    min_p: float,
) -> None:
    """The tree's nodes are the `size` most frequent strings, with their shares. No hits are left out here."""
    options = {"min_n": min_n, "max_n": min_n + more, "length": length}
    drafter = retrieval(path, **options, size=size, min_p=min_p, max_hits=1000)
    state, text = drafter.start(Prompt.of(prompt)), list(prompt)
    for block in [*blocks, [0]]:
        [tree] = drafter.propose([state], [ask(text[-1])])
        known = {string: p for string, p in shares(text, **options).items() if p >= min_p}
        drafted = paths(tree)
        assert tree.token_list[0] == text[-1] and tree.draw == "point"
        assert len(set(drafted)) == len(drafted) == min(size, len(known))
        if drafted:
            odds = path_odds(tree)
            assert odds == pytest.approx([known[string] for string in drafted], rel=1e-5)
            assert odds == pytest.approx(sorted(known.values(), reverse=True)[:size], rel=1e-5)
        [state] = drafter.observe([state], [step(block)])
        text += block


def path_odds(tree: TokenTree) -> list[float]:
    """The probability of every node's whole path."""
    assert tree.logq is not None
    nodes = range(1, tree.num_nodes)
    return [math.exp(sum(tree.logq[i] for i in tree.shape.path_to(node)[1:])) for node in nodes]


def draft(drafter: Retrieval, tokens: list[int], **limits: int) -> TokenTree:
    [tree] = drafter.propose([drafter.start(Prompt.of(tokens))], [ask(tokens[-1], **limits)])
    return tree


def test_a_worked_example(tmp_path: Path) -> None:
    texts = [[0, 1, 2, 2], [0, 1, 2, 3], [3, 1, 0], [0, 1]]
    drafter = retrieval(store(tmp_path / "x", texts), min_n=1, min_p=0.0)
    # "0 1" stands three times: twice "2" follows, once the text ends. "1" alone is not looked up.
    tree = draft(drafter, [3, 0, 1])
    assert tree.token_list == [1, 2, 2, 3] and tree.shape.parent_list == [-1, 0, 1, 1]
    assert tree.logq is not None
    assert [round(math.exp(x), 3) for x in tree.logq[1:]] == [0.667, 0.5, 0.5]
    assert draft(drafter, [2, 1]).token_list == [1, 2, 0, 2, 3]  # "2 1" is unknown, "1" goes on with 2, 2, 0
    longer = retrieval(drafter._store.path.as_posix(), min_n=2)
    assert draft(longer, [2, 1]).token_list == [1]


def test_of_many_hits_an_even_part_is_read(tmp_path: Path) -> None:
    texts = [[0, 1]] * 60 + [[0, 2]] * 30 + [[0, 3]] * 10
    drafter = retrieval(store(tmp_path / "x", texts), min_n=1, min_p=0.0, max_hits=10)
    tree = draft(drafter, [0])
    assert tree.token_list == [0, 1, 2, 3] and tree.logq is not None
    assert [round(math.exp(x), 2) for x in tree.logq[1:]] == [0.6, 0.3, 0.1]


def test_no_draft_runs_into_the_next_text(path: str) -> None:
    drafter = retrieval(path, min_n=3)
    tree = draft(drafter, [1, 2, 3, 1, 2])
    assert tree.token_list == [2, 0] and END not in tree.token_list


def test_drafts_respect_the_ask(path: str) -> None:
    drafter = retrieval(path, min_n=1, min_p=0.0)
    assert draft(drafter, [1]).num_nodes == 1 + 12
    assert draft(drafter, [1], budget=3).num_nodes == 1 + 3
    assert draft(drafter, [1], depth=1).shape.height == 1
    assert draft(drafter, [1], depth=0).num_nodes == draft(drafter, [1], budget=0).num_nodes == 1


def test_only_the_end_of_the_corpus_matches(tmp_path: Path) -> None:
    drafter = retrieval(store(tmp_path / "x", [[0, 1, 2]]), min_n=1)
    assert draft(drafter, [2]).token_list == [2]
    assert draft(drafter, [1]).token_list == [1, 2]


def test_tokens_that_the_target_has_not_are_refused(tmp_path: Path) -> None:
    """Ids without a text at a vocabulary's end do not count in its name."""
    vocabulary = vocabulary_id(TOKENIZER.text_bytes, VOCAB_SIZE)
    write_datastore(tmp_path / "x", [[1, VOCAB_SIZE]], vocab_size=VOCAB_SIZE + 1, vocabulary=vocabulary)
    with pytest.raises(OutpaceError, match="another vocabulary"):
        retrieval(str(tmp_path / "x"))
    assert write_backoff(tmp_path / "y", [[1, VOCAB_SIZE]] * 3, vocabulary=vocabulary).max_token == VOCAB_SIZE
    with pytest.raises(OutpaceError, match="another vocabulary"):
        table_for(TARGET, TOKENIZER, None, str(tmp_path / "y"))
    write_backoff(tmp_path / "y", [[1, 2]] * 3, vocabulary=vocabulary)
    assert table_for(TARGET, TOKENIZER, None, str(tmp_path / "y")).next([1])[0][0] == 2


def test_a_foreign_or_damaged_store_is_refused(path: str, tmp_path: Path) -> None:
    other: Any = SimpleNamespace(text_bytes={token: b"x" for token in range(VOCAB_SIZE)})
    with pytest.raises(OutpaceError, match="another vocabulary"):
        Retrieval(path=path, target=TARGET, tokenizer=other)
    with pytest.raises(OutpaceError, match="needs path"):
        Retrieval(target=TARGET, tokenizer=TOKENIZER)
    (tmp_path / "x").write_bytes(Path(path).read_bytes()[:-1] + b"\1")
    with pytest.raises(FormatError, match="damaged"):
        retrieval(str(tmp_path / "x"))


@pytest.mark.parametrize(
    "options",
    [
        {"min_n": 0},
        {"min_n": 5, "max_n": 4},
        {"max_n": 17},
        {"max_hits": 0},
        {"length": 0},
        {"size": 0},
        {"min_p": -0.1},
        {"min_p": 1.1},
    ],
)
def test_options_out_of_range(path: str, options: dict[str, Any]) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        retrieval(path, **options)
