"""Suffix decoding against counting by search through all text."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.suffix import Suffix, SuffixState
from outpace.drafters.lookup.suffix_trie import END, Node, Place, SuffixTrie
from tests.rows import NO_SCORES

TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=14), max_size=4)
Drawn = tuple[list[int], list[int], list[float]]


def occurrences(text: list[int], w: list[int]) -> list[int]:
    """Positions behind every occurrence."""
    return [at + len(w) for at in range(len(text) - len(w) + 1) if text[at : at + len(w)] == w]


def continued(text: list[int], places: list[int]) -> list[int]:
    return [at for at in places if at < len(text) and text[at] != END]


def slow_grow(text: list[int], w: list[int], *, max_depth: int, size: int, depth: int, min_p: float) -> Drawn:
    """`SuffixTrie.grow` by search: everything is counted anew for every node."""
    tokens, parents, odds = list[int](), list[int](), list[float]()
    waiting = [(-1.0, 0, 0, 0, w)]
    while waiting and len(tokens) <= size:
        waiting.sort()
        negative, level, late, parent, string = waiting.pop(0)
        if level:
            tokens.append(string[-1])
            parents.append(parent)
            odds.append(-negative)
        places = occurrences(text, string)
        behind = continued(text, places)
        if len(string) > max_depth:  # a copy goes on where it is
            behind = continued(text, [-late])
        elif len(string) == max_depth or len(places) == 1:
            behind = behind[-1:]
        for token in {text[at] for at in behind} if level < depth else ():
            ends = [at + 1 for at in behind if text[at] == token]
            if (p := -negative * len(ends) / len(behind)) >= min_p:
                latest = (continued(text, ends) or ends[:1])[-1]
                waiting.append((-p, level + 1, -latest, len(tokens), [*string, token]))
    return tokens[:size], parents[:size], odds[:size]


def slow_draft(
    own: list[int], past: list[int], *, max_depth: int, factor: float, min_p: float, size: int
) -> Drawn:
    best: Drawn = ([], [], [])
    for text in (own, past):
        for m in range(min(len(own), max_depth), 0, -1):
            if len(occurrences(text, own[-m:])) > (text is own):
                limit = min(size, max(1, int(factor * m)))
                tree = slow_grow(text, own[-m:], max_depth=max_depth, size=limit, depth=99, min_p=min_p)
                if sum(tree[2]) > sum(best[2]) + 1e-9:
                    best = tree
    return best


def path_odds(tree: TokenTree) -> list[float]:
    """The probability of every node's whole path."""
    assert tree.logq is not None
    nodes = range(1, tree.num_nodes)
    return [math.exp(sum(tree.logq[i] for i in tree.shape.path_to(node)[1:])) for node in nodes]


def counts(trie: SuffixTrie) -> dict[tuple[int, ...], int]:
    """All that a trie says about its text."""
    found: dict[tuple[int, ...], int] = {}

    def walk(string: tuple[int, ...], place: Place) -> None:
        if isinstance(place, Node):
            if place is not trie.root:
                found[string] = place.count
            for token, longer in (place.after or {}).items():
                walk((*string, token), longer)
        else:
            found[string] = 1
            if len(string) < trie.depth and continued(trie.text, [place]):
                walk((*string, trie.text[place]), place + 1)

    walk((), trie.root)
    return found


@given(TEXTS, st.integers(1, 6))
def test_the_trie_counts_every_substring(texts: list[list[int]], depth: int) -> None:
    trie = SuffixTrie(depth)
    for text in texts:
        trie.extend(text)
        trie.close()
    strings = [tuple(t[i : i + n]) for t in texts for n in range(1, depth + 1) for i in range(len(t) - n + 1)]
    assert counts(trie) == {string: strings.count(string) for string in strings}


@given(TEXTS, st.lists(st.integers(0, 2), max_size=12), st.integers(1, 6))
def test_places_are_those_of_all_suffixes_that_occur(
    texts: list[list[int]], query: list[int], depth: int
) -> None:
    trie = SuffixTrie(depth)
    for text in texts:
        trie.extend(text)
        trie.close()
    places: list[Place] = [trie.root]
    for token in query:
        places = trie.advance(places, token)
    lengths = range(1, min(depth, len(query)) + 1)
    known = [m for m in lengths if occurrences(trie.text, query[-m:])]
    assert len(places) - 1 == len(known) == max(known, default=0)
    for m in known:
        found, place = occurrences(trie.text, query[-m:]), places[m]
        assert place.count == len(found) if isinstance(place, Node) else [place] == found


def ask(root: int, *, budget: int = 99, depth: int = 99) -> Ask:
    return Ask(root, 0, Sampling(), budget, depth)


def step(tokens: list[int], *, tree: TokenTree | None = None) -> Step:
    """A step that commits these tokens, the first ones as drafted."""
    path = list(range(1, len(tokens)))
    return Step(tree or TokenTree.chain(0, tokens[:-1]), NO_SCORES, Verdict(path, tokens[-1], "identical"))


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=9), TEXTS), min_size=1, max_size=3),
    st.integers(1, 6),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    st.integers(1, 12),
)
def test_drafts_equal_a_search_through_all_text(
    requests: list[tuple[list[int], list[list[int]]]], max_depth: int, factor: float, min_p: float, size: int
) -> None:
    drafter = Suffix(factor=factor, min_p=min_p, size=size, max_depth=max_depth)
    past: list[int] = []
    for prompt, blocks in requests:
        state, text = drafter.start(Prompt.of(prompt)), list(prompt)
        for block in [[1], *filter(None, blocks)]:
            [state] = drafter.observe([state], [step(block)])
            text += block
            [tree] = drafter.propose([state], [ask(text[-1])])
            tokens, parents, odds = slow_draft(
                text, past, max_depth=max_depth, factor=factor, min_p=min_p, size=size
            )
            assert tree.token_list == [text[-1], *tokens]
            assert tree.shape.parent_list == [-1, *parents]
            if tokens:
                assert tree.draw == "point"
                assert path_odds(tree) == pytest.approx(odds, abs=1e-5)
        drafter.stop(state)
        past += [*text[len(prompt) :], END]


def draft(drafter: Suffix, tokens: list[int], **limits: int) -> TokenTree:
    [tree] = drafter.propose([drafter.start(Prompt.of(tokens))], [ask(tokens[-1], **limits)])
    return tree


def test_counts_decide_and_branches_are_drafted() -> None:
    text = [1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2]
    tree = draft(Suffix(factor=2), text)
    # After "1 2": "3" twice of three (then 9 or 8), "4" once; four nodes for a match of two.
    assert tree.token_list == [2, 3, 4, 7, 8] and tree.shape.parent_list == [-1, 0, 0, 2, 1]
    assert tree.logq is not None
    assert [round(math.exp(x), 3) for x in tree.logq[1:]] == [0.667, 0.333, 1.0, 0.5]
    assert draft(Suffix(factor=2, min_p=0.5), text).token_list == [2, 3]
    assert draft(Suffix(factor=1), text).token_list == [2, 3, 4]


def test_drafts_respect_the_ask() -> None:
    text = [1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert draft(Suffix(), text).token_list == [3, 4, 5, 6, 1, 2, 3]
    assert draft(Suffix(), text, budget=2).token_list == [3, 4, 5]
    assert draft(Suffix(), text, depth=1).token_list == [3, 4]
    assert draft(Suffix(), text, depth=0).token_list == draft(Suffix(), text, budget=0).token_list == [3]
    assert draft(Suffix(size=1), text).token_list == [3, 4]


def generated(drafter: Suffix, prompt: list[int], output: list[int]) -> None:
    """A request from start to stop that drafts nothing."""
    [state] = drafter.observe([drafter.start(Prompt.of(prompt))], [step(output)])
    drafter.stop(state)


def test_past_outputs_serve_later_requests_prompts_do_not() -> None:
    drafter = Suffix()
    generated(drafter, [50, 51, 52], [1, 2, 3, 4, 5, 6, 7])
    assert draft(drafter, [50, 51]).token_list == [51]
    assert draft(drafter, [8, 2, 3]).token_list == [3, 4, 5, 6, 7]
    assert draft(Suffix(store=0), [8, 2, 3]).token_list == [3]
    without = Suffix(store=0)
    generated(without, [50], [1, 2, 3, 4])
    assert draft(without, [8, 2, 3]).token_list == [3]


def test_a_row_sees_nothing_of_a_row_beside_it() -> None:
    drafter = Suffix()
    first, second = drafter.start(Prompt.of([9])), drafter.start(Prompt.of([8]))
    first, _ = drafter.observe([first, second], [step([1, 2, 3, 4]), step([1, 2])])
    [tree] = drafter.propose([second], [ask(2)])
    assert tree.token_list == [2]
    drafter.stop(first)
    [tree] = drafter.propose([second], [ask(2)])
    assert tree.token_list == [2, 3, 4]


def test_the_least_recently_used_output_goes_first() -> None:
    drafter = Suffix(store=16)
    for number in range(4):  # outputs 10 11 12 13, 20 21 22 23, ...
        generated(drafter, [0], [10 * number + 10 + i for i in range(4)])
    # The oldest serves a draft, and another one does whose draft is not accepted.
    state = drafter.start(Prompt.of([10]))
    [tree] = drafter.propose([state], [ask(10)])
    [state] = drafter.observe([state], [step([11, 12, 20], tree=tree)])
    [tree] = drafter.propose([state], [ask(20)])
    assert tree.token_list == [20, 21, 22]
    rejected = Step(tree, NO_SCORES, Verdict([], 99, "identical"))
    [state] = drafter.observe([state], [rejected])
    drafter.stop(state)  # 20 tokens in all: down to 12
    known = [n for n in range(1, 5) if 10 * n + 3 in draft(drafter, [10 * n + 2]).token_list]
    assert known == [1, 4]


def test_an_output_longer_than_the_store_keeps_its_end() -> None:
    drafter = Suffix(store=4)
    generated(drafter, [0], [1, 2, 3, 4, 5, 6])
    assert draft(drafter, [2]).token_list == [2]
    assert draft(drafter, [3]).token_list == [3, 4, 5]


@pytest.mark.parametrize(
    "options",
    [{"factor": 0.0}, {"min_p": -0.1}, {"min_p": 1.1}, {"size": 0}, {"max_depth": 0}, {"store": -1}],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        Suffix(**options)  # type: ignore[arg-type]


REPEATING = [
    list(range(4000)) * 3,  # all comes again
    [7] * 12000,
    [*range(2000), *range(2000)] * 3,
    [i * i % 97 for i in range(12000)],
]


def held(action: Callable[[], object]) -> tuple[float, object]:
    """MB that an action's result takes."""
    tracemalloc.start()
    try:
        result = action()
        return tracemalloc.get_traced_memory()[0] / 1e6, result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", REPEATING, ids=["twice", "one token", "parts", "period"])
def test_a_request_is_bounded_and_goes_on(text: list[int]) -> None:
    drafter = Suffix(memory_mb=3)
    size, state = held(lambda: drafter.start(Prompt.of(text)))
    assert size < 4 and isinstance(state, SuffixState) and state.text == text
    # What has come lately is still known.
    state.extend([*range(90, 99), *range(90, 94)])
    (tree,) = drafter.propose([state], [Ask(93, len(state.text), Sampling(), 3, 3)])
    assert tree.token_list == [93, 94, 95, 96]


def test_a_request_that_grows_is_bounded() -> None:
    drafter = Suffix(memory_mb=3)
    state = drafter.start(Prompt.of([1]))
    step = SimpleNamespace(tokens=list(range(500)), verdict=SimpleNamespace(path=[]))
    size, _ = held(lambda: [drafter.observe([state], [cast("Step", step)]) for _ in range(40)])
    assert size < 4 and len(state.text) == 1 + 40 * 500
    assert not state.own.full and state.own.text == state.text[-len(state.own.text) :]


def test_past_outputs_are_bounded() -> None:
    drafter = Suffix(memory_mb=3, store=10**6)
    texts = [[*range(1000 * i, 1000 * i + 1000)] for i in range(12)]

    def answer() -> None:
        for text in texts * 4:
            state = drafter.start(Prompt.of([1]))
            state.extend(text)
            drafter.stop(state)

    size, _ = held(answer)
    assert size < 4
    # The latest are known, and a place is still that of its output.
    state = drafter.start(Prompt.of([1, *texts[-1][:9]]))
    ask = Ask(texts[-1][8], 10, Sampling(), 5, 5)
    assert drafter.propose([state], [ask])[0].token_list[:3] == texts[-1][8:11]
    assert state.source in drafter._past._outputs


def test_one_output_larger_than_the_memory_is_kept_in_part() -> None:
    drafter = Suffix(memory_mb=1, store=10**6)
    for text in REPEATING:
        state = drafter.start(Prompt.of([1]))
        state.extend(text)
        size, _ = held(lambda state=state: drafter.stop(state))  # type: ignore[misc]
        assert size < 2.5


@given(TEXTS, st.integers(1, 6), st.integers(1, 12))
def test_a_full_trie_keeps_its_text_and_counts_no_more(texts: list[list[int]], depth: int, most: int) -> None:
    full, whole = SuffixTrie(depth, most=most), SuffixTrie(depth)
    for text in texts:
        for trie in (full, whole):
            trie.extend(text)
            trie.close()
    assert full.text == whole.text and full.entries <= most + 2 * depth
    if not full.full:
        assert counts(full) == counts(whole)
    strings = counts(whole)
    assert all(count <= strings[string] for string, count in counts(full).items())


@pytest.mark.parametrize("memory_mb", [0, -1, 2**20 + 1])
def test_memory_has_a_range(memory_mb: int) -> None:
    with pytest.raises(OutpaceError, match=r"memory_mb=.*accepted are whole numbers from 1"):
        Suffix(memory_mb=memory_mb)
