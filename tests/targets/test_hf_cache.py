"""The slot cache against lists of tokens: whatever happens to rows, slots hold their tokens in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from outpace.targets.hf_cache import FIRST_SLOTS, SlotCache  # noqa: E402

LAYERS, HEADS, DIM = 2, 3, 4


def states(texts: list[list[int]], layer: int, sign: int = 1) -> Any:
    """[B, HEADS, N, DIM] in which every number says token, layer and head."""
    base = torch.tensor(texts, dtype=torch.float32)[:, None, :, None] * sign
    return base + torch.arange(HEADS).view(1, -1, 1, 1) / 8 + layer / 2 + torch.zeros(1, 1, 1, DIM)


def call(cache: SlotCache, rows: list[int], texts: list[list[int]]) -> list[tuple[Any, Any]]:
    """One forward call: what every layer sees."""
    longest = max(map(len, texts))
    padded = [text + [-1] * (longest - len(text)) for text in texts]
    cache.aim(rows, longest)
    return [cache.update(states(padded, i), states(padded, i, -1), i) for i in range(LAYERS)]


def assert_holds(cache: SlotCache, rows: list[int], texts: list[list[int]]) -> None:
    in_sight = cache.aim(rows, 0)
    assert in_sight == max(map(len, texts))
    layers: list[Any] = cache.layers
    for i, layer in enumerate(layers):
        for b, text in enumerate(texts):
            assert cache.length(rows[b]) == len(text)
            assert torch.equal(layer.keys[b : b + 1, :, : len(text)], states([text], i))
            assert torch.equal(layer.values[b : b + 1, :, : len(text)], states([text], i, -1))


def test_a_call_sees_what_is_cached_and_what_it_writes() -> None:
    cache = SlotCache()
    rows = cache.open(2)
    call(cache, rows, [[1, 2, 3], [4]])
    cache.keep(rows, [[1, 2], []])
    assert (cache.get_seq_length(), cache.get_mask_sizes(3, 0)) == (0, (3, 0))
    seen = call(cache, rows, [[5, 6], [7, 8]])
    for layer, (keys, values) in enumerate(seen):
        assert keys.shape == (2, HEADS, 5, DIM)
        assert torch.equal(keys[:1], states([[1, 2, 3, 5, 6]], layer))
        assert torch.equal(keys[1:, :, :3], states([[4, 7, 8]], layer))
        assert torch.equal(values[1:, :, :3], states([[4, 7, 8]], layer, -1))
    assert (cache.get_seq_length(), cache.get_mask_sizes(2, 1)) == (3, (5, 0))


def test_neighbours_of_one_length_are_seen_without_a_copy() -> None:
    cache = SlotCache()
    rows = cache.open(3)
    call(cache, rows, [[1, 2], [3, 4], [5, 6]])
    cache.keep(rows, [[1]] * 3)
    cache.free(rows[:1])
    keys, _ = call(cache, rows[1:], [[7], [8]])[0]
    first: Any = cache.layers[0]
    assert keys.data_ptr() == first.stores[0].data_ptr()


def test_room_doubles_and_keeps_what_there_is() -> None:
    cache = SlotCache(max_slots=700)
    (row,) = cache.open()
    text: list[int] = []
    sizes = set()
    for start in range(0, 720, 60):
        new = list(range(start, start + 60))
        call(cache, [row], [new])
        cache.keep([row], [range(1, 60)])
        text += new
        assert_holds(cache, [row], [text])
        first: Any = cache.layers[0]
        sizes.add(first.stores[0].shape[2])
    assert sizes == {FIRST_SLOTS, 2 * FIRST_SLOTS, 700, 720}
    assert cache.num_bytes == 2 * LAYERS * HEADS * DIM * 720 * 4


def test_rows_given_back_one_by_one_move_the_others_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that ends frees its rows in turn: no move for those that have gone by the next call."""
    cache, copies, copy = SlotCache(), list[int](), SlotCache._copy
    rows = cache.open(40)
    texts = [[n, n + 1, n + 2] for n in range(40)]
    call(cache, rows, texts)
    cache.keep(rows, [[1, 2]] * 40)
    monkeypatch.setattr(SlotCache, "_copy", lambda *given: copies.append(given[1]) or copy(*given))
    for row in rows[:30]:
        cache.free([row])
    assert_holds(cache, rows[30:], texts[30:])
    assert copies == rows[30:]
    call(cache, rows[30:], [[7]] * 10)
    cache.keep(rows[30:], [[]] * 10)
    assert_holds(cache, rows[30:], [[*text, 7] for text in texts[30:]])
    assert copies == rows[30:]


def test_nodes_of_the_last_call_move_with_their_row() -> None:
    cache = SlotCache()
    rows = cache.open(2)
    call(cache, rows, [[1], [2]])
    cache.keep(rows, [[], []])
    call(cache, rows[1:], [[3, 4, 5, 6]])
    cache.free(rows[:1])
    cache.keep(rows[1:], [[1, 3]])
    assert_holds(cache, rows[1:], [[2, 3, 4, 6]])


operations = st.lists(
    st.tuples(st.sampled_from(["open", "fork", "free", "step", "step"]), st.randoms(use_true_random=False)),
    min_size=3,
    max_size=12,
)


@settings(max_examples=60)
@given(operations)
def test_rows_hold_their_texts(todo: list[tuple[str, Any]]) -> None:
    cache = SlotCache()
    texts: dict[int, list[int]] = {}
    count = 0
    for what, random in todo:
        rows = random.sample(sorted(texts), random.randint(1, len(texts))) if texts else []
        if what == "open":
            rows = cache.open(random.randint(1, 3))
            texts.update((row, []) for row in rows)
        elif what == "fork" and rows:
            texts[cache.fork(rows[0])] = list(texts[rows[0]])
        elif what == "free" and rows:
            cache.free(rows)
            for row in rows:
                del texts[row]
        if what in ("open", "step") and rows:
            trees = [list(range(count, count + random.randint(1, 5))) for _ in rows]
            count += 10
            call(cache, rows, trees)
            paths = [sorted(random.sample(range(1, len(t)), random.randint(0, len(t) - 1))) for t in trees]
            cache.keep(rows, paths)
            for row, tree, path in zip(rows, trees, paths, strict=True):
                texts[row] += [tree[node] for node in (0, *path)]
        if texts:
            everything = random.sample(sorted(texts), len(texts))
            assert_holds(cache, everything, [texts[row] for row in everything])
            assert_holds(cache, sorted(texts), [texts[row] for row in sorted(texts)])
    assert cache.num_rows == len(texts)


@settings(max_examples=60)
@given(st.data())
def test_slots_move_all_at_once(data: st.DataObject) -> None:
    """To places that are read from too, side by side or not, and no other row is touched."""
    cache = SlotCache()
    rows = cache.open(2)
    texts = [[*range(10, 18)], [*range(30, 38)]]
    call(cache, rows, texts)
    cache.keep(rows, [range(1, 8)] * 2)
    count = data.draw(st.integers(0, 5))
    old = sorted(data.draw(st.permutations(range(8)))[:count])
    first = data.draw(st.integers(0, 8 - count))
    cache.move(rows[1], [(slot, first + i) for i, slot in enumerate(old)])
    moved = list(texts[1])
    moved[first : first + count] = [texts[1][slot] for slot in old]
    assert_holds(cache, rows, [texts[0], moved])


@pytest.mark.parametrize("nodes", [[(1, 0)], [(0, 1), (1, 0)], [(0, 0), (0, 1), (1, 1)]])
def test_some_nodes_alone_are_written(nodes: list[tuple[int, int]]) -> None:
    cache = SlotCache()
    rows = cache.open(2)
    texts = [[1, 2, 3], [4]]
    call(cache, rows, texts)
    cache.keep(rows, [[1, 2], []])
    cache.aim(rows, 2)
    spots, new = cache.spots(nodes), [[5, 6], [7, 8]]
    for layer in range(LAYERS):
        before, _ = (
            one.clone()
            for one in cache.update_nodes(spots, states(new, layer), states(new, layer, -1), layer)
        )
        for row, text in enumerate(texts):
            for node in range(2):
                written = before[row, :, len(text) + node]
                assert torch.equal(written, states([[new[row][node]]], layer)[0, :, 0]) == (
                    (row, node) in nodes
                )
