"""Keys and values in slots that are allotted in advance: a transformers `Cache` whose rows can keep a path.

transformers' own caches grow by concatenation, hold rows of one length and can only forget their end. Here
every layer has one tensor [places, heads, slots, dim] for keys and one for values, which grow by doubling.
Slot s of a row belongs to the token at position s. They are plain tensors, also if inference mode or no_grad
is on where they are made, and follow the type and the device of what is written. One call goes

    aim      which rows the model runs next, in which order, with how many nodes each
    update   (the model's layers call it) writes the nodes behind each row's tokens and returns all slots in
             sight, as a view: the caller's attention mask says which of them a node may see
    keep     moves the slots of the accepted nodes to the row's end, and forgets the others

A model that needs an encoder's keys and values too gets two of these caches.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from outpace.core.call import Call, Kept, joined_path

FIRST_SLOTS = 256


class SlotCache(Cache):
    """The keys and values of all rows of a model, allotted as they are needed.

    device     where index tensors live; keys and values live where each layer computes them.
    max_slots  growing stops here unless a call needs more: the model's context length.

    Rows are numbers. In a call, those in use fill the first places of the tensors by age, so a call on
    all of them, or on neighbours, in that order needs no copy of the cache; any other order works too.
    """

    def __init__(self, device: torch.device | str = "cpu", *, max_slots: int | None = None) -> None:
        super().__init__(layers=[])
        self._device = torch.device(device)
        self._max_slots = max_slots
        self._ids = itertools.count()
        self._place: dict[int, int] = {}  # row -> place, ascending
        self._has_gaps = False  # places of rows that were given back
        self._length: dict[int, int] = {}
        self._held: dict[int, int] = {}  # slots that may hold something: the nodes of a row's last call too
        self._allotted = (0, 0)  # places, slots
        self._window = Window([], [], 0, 0, self._device)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return len(self._place)

    @property
    def num_bytes(self) -> int:
        """Bytes allotted to keys and values."""
        return sum(store.nbytes for layer in self._slot_layers() for store in layer.stores)

    def open(self, count: int = 1) -> list[int]:
        """New rows without tokens."""
        self._close_up()
        if not self._place:
            for layer in self._slot_layers():
                layer.is_empty = True
        rows = list(itertools.islice(self._ids, count))
        for row in rows:
            self._place[row], self._length[row], self._held[row] = len(self._place), 0, 0
        return rows

    def fork(self, row: int) -> int:
        """A new row with the same tokens, copied."""
        (copy,) = self.open()
        self._length[copy] = self._held[copy] = self._length[row]
        self._allot(len(self._place), self._allotted[1])
        self._copy(row, self._place[copy], self._length[row])
        return copy

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back. Before the next call younger rows move up: those in use stay neighbours."""
        for row in rows:
            del self._length[row], self._held[row], self._place[row]
        self._has_gaps = True

    def _close_up(self) -> None:
        """Not with every row that is given back: of n, one after the other, that would be n^2 moves."""
        if not self._has_gaps:
            return
        for place, row in enumerate(self._place):
            if self._place[row] != place:
                # Nodes of the last call, which may still be kept, move with their row.
                self._copy(row, place, self._held[row])
                self._place[row] = place
        self._has_gaps = False

    def length(self, row: int) -> int:
        """How many tokens the row has."""
        return self._length[row]

    def aim(self, rows: Sequence[int], num_nodes: int, known: Sequence[int] = ()) -> int:
        """Say that the next forward call is on these rows, with num_nodes nodes each (padded to the longest).

        Its batch is in the order of `rows`, and node i of a row goes to slot `length(row) + i`. `known`, a
        number for each row, counts the nodes that are there from the call before: this call's come after
        them. Returns how many slots are in sight: the last axis of the attention mask. With num_nodes = 0
        nothing is written, and every layer's `keys` and `values` are the rows' tokens.
        """
        self._close_up()
        assert rows and (num_nodes == 0 or len(set(rows)) == len(rows)), "different rows, if written to"
        starts = [self._length[row] for row in rows]
        if known:
            starts = [start + more for start, more in zip(starts, known, strict=True)]
        in_sight = max(starts) + num_nodes
        self._allot(len(self._place), in_sight)
        places = [self._place[row] for row in rows]
        for row, start in zip(rows, starts, strict=True):
            self._held[row] = max(self._length[row], start + num_nodes)
        self._window = Window(places, starts, num_nodes, in_sight, self._device)
        if num_nodes == 0:
            for layer in self._slot_layers():
                layer.look(self._window)
        return in_sight

    def keep(self, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        """Give rows the root (node 0) of the last call and the given nodes after it, ascending."""
        places: list[int] = []
        starts: list[int] = []
        moved: list[Sequence[int]] = []
        for row, path in zip(rows, paths, strict=True):
            # Neighbours, such as a whole prompt or the first nodes of a chain, lie in place already.
            if path and path[-1] != len(path):
                places.append(self._place[row])
                starts.append(self._length[row])
                moved.append(path)
            self._length[row] += 1 + len(path)
        if not moved:
            return
        longest = max(map(len, moved))
        # What a shorter path lacks is filled up with the root, which moves onto itself.
        old = [[*path, *[0] * (longest - len(path))] for path in moved]
        new = [[*range(1, len(path) + 1), *[0] * (longest - len(path))] for path in moved]
        place, start, source, goal = (
            torch.tensor(numbers, device=self._device) for numbers in (places, starts, old, new)
        )
        start = start[:, None]
        for layer in self._slot_layers():
            layer.move(place[:, None], start + source, start + goal)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's attention: [B, heads, nodes, dim] in, [B, heads, slots in sight, dim] out."""
        return self._layer(layer_idx, key_states, value_states).write(self._window, key_states, value_states)

    def spots(self, nodes: Sequence[tuple[int, int]]) -> Spots:
        """Where some nodes of the next call, (row of the call, node of it), are written: in all layers."""
        return self._window.spots(nodes, self._device)

    def update_nodes(
        self, spots: Spots, keys: Tensor, values: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """As `update`, but some nodes alone are written."""
        layer = self._layer(layer_idx, keys, values)
        return layer.write(self._window, keys, values, spots)

    def move(self, row: int, slots: Sequence[tuple[int, int]]) -> None:
        """Move what slots of a row hold, all at once: (from, to)."""
        moved = [pair for pair in slots if pair[0] != pair[1]]
        if not moved:
            return
        (first, goal), count = moved[0], len(moved)
        if moved == [(first + i, goal + i) for i in range(count)]:
            for layer in self._slot_layers():
                layer.shift(self._place[row], first, goal, count)
            return
        old, new = torch.tensor(moved, device=self._device).T
        place = torch.tensor([[self._place[row]]], device=self._device)
        for layer in self._slot_layers():
            layer.move(place, old[None], new[None])

    def _layer(self, layer_idx: int, keys: Tensor, values: Tensor) -> SlotLayer:
        while len(self.layers) <= layer_idx:
            self.layers.append(SlotLayer())
        layer = self.layers[layer_idx]
        assert isinstance(layer, SlotLayer)
        if not layer.is_initialized:
            layer.allot(*self._allotted, keys, values)
        return layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Position of the call's first node, where all rows agree; else of that of the longest row."""
        return self._window.in_sight - self._window.num_nodes

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """(slots in sight, position of the first): what a model needs to make a causal mask itself."""
        return self._window.in_sight, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """No limit."""
        return -1

    def _slot_layers(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if isinstance(layer, SlotLayer) and layer.is_initialized]

    def _allot(self, places: int, slots: int) -> None:
        """Room for this many places and slots, by doubling."""
        has_places, has_slots = self._allotted
        if places <= has_places and slots <= has_slots:
            return
        if places > has_places:
            has_places = max(places, 2 * has_places)
        if slots > has_slots:
            doubled = max(FIRST_SLOTS, 2 * has_slots)
            has_slots = max(slots, doubled if self._max_slots is None else min(doubled, self._max_slots))
        self._allotted = has_places, has_slots
        for layer in self._slot_layers():
            layer.allot(has_places, has_slots, *layer.stores)

    def _copy(self, row: int, place: int, num_slots: int) -> None:
        """Copy a row's first slots to another place."""
        for layer in self._slot_layers():
            for store in layer.stores:
                store[place, :, :num_slots] = store[self._place[row], :, :num_slots]


def keep_calls(
    cache: SlotCache, calls: Mapping[int, Call], rows: Sequence[int], paths: Sequence[Kept]
) -> None:
    """What `Target.keep` does: the calls' pending tokens and trees stand in the cache as `Call.joined`."""
    joined = [(row, joined_path(calls[row].lead, path)) for row, path in zip(rows, paths, strict=True)]
    kept = [(row, path) for row, path in joined if path is not None]
    cache.keep([row for row, _ in kept], [path for _, path in kept])


class Spots(NamedTuple):
    """Nodes of a call and where they are written: numbers for one, i64[M] for several."""

    row: Any
    node: Any
    place: Any
    slot: Any

    def to(self, device: torch.device) -> Spots:
        """Where a store is."""
        return self if isinstance(self.row, int) else Spots(*(one.to(device) for one in self))


class Window:
    """Where one call reads and writes: the same for all layers.

    start is the slot of every row's first node, or None where rows differ in it: then `slots` has all.
    """

    def __init__(
        self,
        places: Sequence[int],
        starts: Sequence[int],
        num_nodes: int,
        in_sight: int,
        device: torch.device,
    ) -> None:
        self.num_nodes = num_nodes
        self.in_sight = in_sight
        self.start = starts[0] if len(set(starts)) == 1 else None
        self.first = places[0] if places else 0
        self.end = self.first + len(places)
        self.adjacent = list(places) == list(range(self.first, self.end))
        self._given = list(places), list(starts)
        if not self.adjacent or self.start is None:
            self.places = torch.tensor(places, device=device)
            nodes = torch.arange(num_nodes, device=device)
            self.slots = torch.tensor(starts, device=device)[:, None] + nodes  # [B, nodes]

    def spots(self, nodes: Sequence[tuple[int, int]], device: torch.device) -> Spots:
        """Of some rows' nodes. One alone is told by numbers: that is a copy, and several are a gather."""
        places, starts = self._given
        found = [(row, node, places[row], starts[row] + node) for row, node in nodes]
        return Spots(*(found[0] if len(found) == 1 else torch.tensor(found, device=device).T))


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values. `keys` and `values` are what the last call has in sight."""

    is_sliding = False  # a window, where the model has one, is in the mask: all tokens are held

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stores: tuple[Tensor, Tensor] | tuple[()] = ()
        self.is_empty = True  # nothing is held that anybody will read

    def allot(self, places: int, slots: int, keys: Tensor, values: Tensor) -> None:
        """Tensors of this many places and slots, otherwise like those given, with what the layer had."""
        stores = []
        # A tensor of inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            for like, old in itertools.zip_longest((keys, values), self.stores):
                # Zeros: a masked slot weighs nothing, but nothing times NaN is NaN.
                store = like.new_zeros(places, like.shape[1], slots, like.shape[3])
                if old is not None:
                    store[: old.shape[0], :, : old.shape[2]] = old
                stores.append(store)
        self.stores = (stores[0], stores[1])
        self.keys = self.values = None
        self.is_initialized = True

    def write(
        self, window: Window, keys: Tensor, values: Tensor, spots: Spots | None = None
    ) -> tuple[Tensor, Tensor]:
        """Write [B, heads, nodes, dim] where the window says; returns what it has in sight, in their type.

        spots  the nodes that are written; None for all.
        """
        self._fit(keys, values)
        for store, new in zip(self.stores, (keys, values), strict=True):
            if spots is not None:
                row, node, place, slot = spots.to(store.device)
                store[place, :, slot] = new[row, :, node].to(store.dtype)
            elif window.adjacent and window.start is not None:
                stop = window.start + window.num_nodes
                store[window.first : window.end, :, window.start : stop] = new
            else:
                places, slots = window.places.to(store.device), window.slots.to(store.device)
                # By index, torch converts no types.
                store[places[:, None], :, slots] = new.transpose(1, 2).to(store.dtype)
        self.is_empty = False
        seen_keys, seen_values = self.look(window)
        return seen_keys.to(keys.dtype), seen_values.to(values.dtype)

    def _fit(self, keys: Tensor, values: Tensor) -> None:
        """Stores for what is written: a model may move, change its type, or be called under autocast.

        What other rows hold is never rounded: of two types the stores keep the one that holds both.
        """
        if not self.stores or all(
            (old.dtype, old.device) == (new.dtype, new.device)
            for old, new in zip(self.stores, (keys, values), strict=True)
        ):
            return
        places, _, slots, _ = self.stores[0].shape
        if self.is_empty:
            self.stores = ()
            self.allot(places, slots, keys, values)
            return
        likes = [
            new.new_empty((0, *new.shape[1:]), dtype=torch.promote_types(old.dtype, new.dtype))
            for old, new in zip(self.stores, (keys, values), strict=True)
        ]
        self.allot(places, slots, *likes)

    def look(self, window: Window) -> tuple[Tensor, Tensor]:
        """(keys, values) [B, heads, slots in sight, dim]: views, unless the rows are no neighbours."""
        seen = [store[:, :, : window.in_sight] for store in self.stores]
        if window.adjacent:
            self.keys, self.values = (store[window.first : window.end] for store in seen)
        else:
            places = window.places
            self.keys, self.values = (store.index_select(0, places.to(store.device)) for store in seen)
        return self.keys, self.values

    def move(self, place: Tensor, old: Tensor, new: Tensor) -> None:
        """Copy slots i64[R, M] `old` to `new` in places i64[R, 1]."""
        for store in self.stores:
            place, old, new = (index.to(store.device) for index in (place, old, new))
            store[place, :, new] = store[place, :, old]

    def shift(self, place: int, old: int, new: int, count: int) -> None:
        """Copy `count` slots from `old` on to those from `new` on, which may be some of them."""
        for store in self.stores:
            store[place, :, new : new + count] = store[place, :, old : old + count].clone()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Not for layers alone: the cache knows which rows a call is about."""
        raise NotImplementedError("update a SlotCache, not its layers")

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The cache allots."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """See `SlotCache.get_mask_sizes`."""
        raise NotImplementedError("ask the SlotCache")

    def get_seq_length(self) -> int:
        """See `SlotCache.get_seq_length`."""
        raise NotImplementedError("ask the SlotCache")

    def get_max_length(self) -> int:
        """No limit."""
        return -1
