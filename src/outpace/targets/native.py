"""The CPU target: decoder-only transformers on our own block kernels (`native/`).

Bit-exact by construction: a token's logits depend on its own prefix alone, not on the tree around it, on
its companions in the call or on the chunks of the prompt. The instruction set is chosen at run time; the
environment variable OUTPACE_ISA forces one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Call, Kept, Pass, Source, joined_path, refuse_source
from outpace.core.errors import CacheFull, OutpaceError
from outpace.core.layers import LayerSpec
from outpace.core.machine import default_threads, processor_key
from outpace.core.options import checked, whole
from outpace.core.products import Adapter
from outpace.core.sampling import Sampling
from outpace.core.steps import Exactness
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.files.memory import copied, forget_mapped, has_room_for_copy, wanted_memory
from outpace.targets.fetching import LEAST_BYTES, SIZES, Arrays, apply, are_fetches, measured
from outpace.targets.native_fingerprint import fingerprint
from outpace.targets.native_layer import NativeLayer
from outpace.targets.native_products import NativeProduct, input_rows, output_rows, product_of, projection_of
from outpace.targets.native_scores import NativeScores

if TYPE_CHECKING:
    from outpace._native import Decoder
    from outpace.files.config import ModelConfig
    from outpace.files.memo import Memo
    from outpace.files.packed import PackedFile

DEFAULT_CACHE_ROWS = 4  # rows of full context that fit; the memory is used only as rows grow
CHUNK = 128  # tokens of a prompt that share one pass over the weights: more take no less time each
RANGES = {"threads": (1, 1024), "context_length": (1, 2**31 - 1), "cache_tokens": (16, 2**40)}


class NativeTarget:
    """A packed model in memory, with its rows of keys and values.

    threads         default: the physical cores that this process may use, within its group's quota.
    context_length  caps the model's own; positions beyond it are refused.
    kv              type of the cached keys and values, "f16" or "f32".
    cache_tokens    tokens that all rows together may hold; memory is used as they come.
    taps            layers (0 = first) whose output `Scores.hidden` should offer as "0", "1", ...
    beside          a target whose threads this one uses, in turns with it; `threads` have no effect then.

    After a fork the child starts its threads with its first call; rows and weights are there as they were. A
    fork waits for the call that runs.
    """

    exactness: Exactness = "identical"

    @checked
    def __init__(
        self,
        config: ModelConfig,
        weights: PackedFile,
        *,
        eos_ids: frozenset[int] = frozenset(),
        threads: int | None = None,
        context_length: int | None = None,
        kv: Literal["f16", "f32"] = "f16",
        cache_tokens: int | None = None,
        taps: Sequence[int] = (),
        beside: NativeTarget | None = None,
    ) -> None:
        # Loading it costs a moment, and whoever only lists targets has no need of it.
        from outpace import _native

        check_ranges({"threads": threads, "context_length": context_length, "cache_tokens": cache_tokens})
        if context_length is not None:
            whole("context_length", context_length, 1, config.context_length)
        self.config = config
        self.weights = weights
        self.vocab_size = config.vocab_size
        self.hidden_size = config.hidden_size
        self.context_length = context_length or config.context_length
        self.eos_ids = eos_ids
        self.cache_tokens = cache_tokens or max(16, self.context_length * DEFAULT_CACHE_ROWS)
        self.taps = list(taps)
        fields = {
            name: getattr(config, name)
            for name in config.__slots__
            if name not in ("architecture", "tie_embeddings")
        }
        fields |= {
            "context_length": self.context_length,
            "rope_inv_freq": [table.tolist() for table in config.rope_inv_freq],
        }
        tensors = {name: (t.kind, t.rows, t.cols, t.offset, t.nbytes) for name, t in weights.tensors.items()}
        try:
            self._decoder: Decoder = _native.Decoder(
                fields,
                tensors,
                weights.buffer,
                threads or default_threads(),
                kv == "f16",
                self.cache_tokens,
                beside._decoder if beside is not None else None,
            )
        except ValueError as error:
            raise OutpaceError(str(error)) from None
        except (RuntimeError, MemoryError) as error:  # no memory for keys and values
            raise OutpaceError(f"{error}; accepted is a smaller context_length") from None
        self.traits = Traits(max_nodes=_native.Decoder.max_nodes, chunk=CHUNK)
        self.max_top: int = _native.Decoder.max_top  # of one `Scores.top` without whole logits
        self._fingerprint: str | None = None
        self._leads: dict[int, int] = {}  # of the last call, by row
        self._call: int = 0  # number of the last native call: older scores have been overwritten

    @property
    def isa(self) -> str:
        """The instruction set in use: "avx512", "avxvnni", "avx2" or "portable"."""
        return self._decoder.isa

    @property
    def threads(self) -> int:
        """How many threads compute."""
        return self._decoder.num_threads

    @property
    def num_layers(self) -> int:
        """How many layers the model has."""
        return self.config.num_layers

    @property
    def num_loops(self) -> int:
        """How many times all layers run for a token; 1 where they do not run several times, all alike."""
        return self.config.num_loops

    @property
    def cache_bytes(self) -> int:
        """Bytes of the pages of keys and values that rows hold now."""
        return self._decoder.cache_bytes

    def open(self, source: Source | None = None) -> int:
        """A new row without tokens."""
        refuse_source(source)
        return self._decoder.open()

    def score(self, calls: Sequence[Call]) -> NativeScores:
        """Run what is pending and every node of every tree, in one call; nothing is committed."""
        return self._score(calls)

    def run(
        self, calls: Sequence[Call], *, layers: int | None = None, skip: Collection[int] = ()
    ) -> NativeScores:
        """`score` by a part of the model (see `contracts.Layered`)."""
        return self._score(calls, self.num_layers if layers is None else layers, skip)

    def _score(self, calls: Sequence[Call], layers: int = -1, skip: Collection[int] = ()) -> NativeScores:
        starts, places = [0], []
        tokens: list[int] = []
        parents: list[int] = []
        for call in calls:
            tree, lead = call.joined, call.lead
            tokens += tree.token_list
            parents += tree.shape.parent_list
            if call.wanted:
                places.append((starts[-1] + lead, tree.num_nodes - lead))
            starts.append(len(tokens))
        self._leads = {call.row: call.lead for call in calls}
        rows = [call.row for call in calls]
        self._run(partial(self._decoder.score, rows, starts, tokens, parents, self.taps, layers, list(skip)))
        leads = [call.lead for call in calls if call.wanted]
        return NativeScores(self, places, self.taps, leads=leads)

    def _run(self, call: Callable[[], None]) -> None:
        self._call += 1
        try:
            call()
        except ValueError as error:  # more nodes than a call has
            raise OutpaceError(str(error)) from None
        except RuntimeError as error:
            raise self._no_room(error) from None

    def advance(self, passes: Sequence[Pass], heads: Mapping[int, Adapter] | None = None) -> NativeScores:
        """One loop for every node in flight (see `contracts.Looped`); nothing is committed.

        An OutpaceError for a model without loops, and for nodes that do not go on from where they were.
        """
        starts, places = [0], []
        tokens: list[int] = []
        parents: list[int] = []
        for one in passes:
            tokens += one.tree.token_list
            parents += one.tree.shape.parent_list
            assert all(0 <= node < one.tree.num_nodes for node in one.wanted), (
                "a node that the tree does not have"
            )
            places += [(starts[-1] + node, 1) for node in one.wanted]
            starts.append(len(tokens))
        self._leads = {}
        rows = [one.row for one in passes]
        loops = [loop for one in passes for loop in one.loops]
        came = [node for one in passes for node in one.came]
        self._run(partial(self._decoder.advance, rows, starts, tokens, parents, loops, came))
        for loop, head in (heads or {}).items():
            assert 0 < loop < self.num_loops, "after its last loop a token's output is the model's own"
            read = [node for node, _ in places if loops[node] + 1 == loop]
            if read:
                self._decoder.set_hidden(read, head(self._decoder.hidden(-1)[read]))
        return NativeScores(self, places, roots=False)

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        """Commit what was pending in the last `score`, of these rows, and the given nodes."""
        for row, path in zip(rows, paths, strict=True):
            if (joined := joined_path(self._leads.pop(row, 0), path)) is not None:
                self._decoder.keep(row, joined)

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens; full pages are shared."""
        try:
            return self._decoder.fork(row)
        except RuntimeError as error:
            raise self._no_room(error) from None

    def fork_at(self, row: int, length: int) -> int:
        """A new row with the first `length` tokens (see `contracts.Cuttable`); full pages are shared."""
        try:
            return self._decoder.fork_at(row, length)
        except RuntimeError as error:
            raise self._no_room(error) from None

    def _no_room(self, error: RuntimeError) -> OutpaceError:
        if "is full" not in str(error):
            return OutpaceError(str(error))
        return CacheFull(
            f"the cache of keys and values is full: unfinished texts hold its {self.cache_tokens} tokens; "
            "close() streams that are not read to their end (a with block does), or load more cache_tokens"
        )

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back."""
        for row in rows:
            self._leads.pop(row, None)
            self._decoder.close(row)

    def close(self) -> None:
        """Give back threads, rows and the hold on the weights; any other use but `free` then is refused."""
        self._decoder = cast("Decoder", _Closed())

    def length(self, row: int) -> int:
        """How many tokens the row has cached."""
        return self._decoder.length(row)

    def fingerprint(self) -> str:
        """Names the weights: the same on every machine (see `native_fingerprint.py`)."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.config, self.weights)
        return self._fingerprint

    def tap(self, *names: str) -> None:
        """Have `Scores.hidden` offer these layers, by number, from the next call on; "final" always is.

        An OutpaceError for a layer that the model does not have.
        """
        layers = [str(layer) for layer in range(self.num_layers)]
        for name in names:
            if name != "final" and name not in layers:
                raise OutpaceError(
                    f"unknown tap {name!r}, accepted are final and the layers 0 to {self.num_layers - 1}"
                )
        added = {int(name) for name in names if name != "final"}
        self.taps += sorted(added.difference(self.taps))

    def tune(self, memo: Memo) -> None:
        """Choose the fastest way to fetch weights, measured once and kept (see `fetching.py`)."""
        wanted, size = wanted_memory(), self.weights.buffer.nbytes
        if size < LEAST_BYTES or self.context_length < max(SIZES):
            return
        room = wanted is None and has_room_for_copy(size)
        # Measurements without room for a copy do not tell whether a copy pays.
        name = f"fetches-{processor_key()}-{self.isa}-{self.threads}{'' if room else '-mapped'}"
        found = memo(name, partial(self._measure, room), are_fetches)
        apply(found, lambda tokens, fetch: self._decoder.set_fetch(tokens, *fetch))
        if wanted == "huge" or (room and found["huge"][0]):
            self._decoder.set_weights(copied(self.weights.buffer))
            forget_mapped(self.weights.buffer)

    def _measure(self, room: bool) -> Arrays:
        mapped = self.weights.buffer
        copy = copied(mapped) if room else mapped
        row = self._decoder.open()

        def call(size: int) -> None:
            tree = TokenTree.chain(0, [0] * (size - 1))
            self._score([Call.on(row, tree)]).choose([Sampling()], [0])

        try:
            return measured(
                call,
                lambda tokens, fetch: self._decoder.set_fetch(tokens, *fetch),
                (lambda huge: self._decoder.set_weights(copy if huge else mapped)) if room else None,
            )
        finally:
            self._decoder.set_weights(mapped)
            self._decoder.close(row)

    def product(self, weight: NDArray[np.float32]) -> NativeProduct:
        """A matrix f32[M, K]: 8 bit in groups of 32 for a quantised model, exact for one of floats."""
        return product_of(self._decoder, self.weights, weight)

    def projection(self, token_ids: NDArray[np.integer] | None = None) -> NativeProduct:
        """The output matrix where it lies, or a copy of these rows: 8 bit, or floats as they are."""
        return projection_of(self._decoder, self.weights, token_ids)

    def output_rows(self, token_ids: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """f32[M, D]: the output matrix as it is read, or these rows of it."""
        return output_rows(self.weights, token_ids)

    def input_rows(self, token_ids: NDArray[np.integer]) -> NDArray[np.float32]:
        """f32[M, D]: the input embeddings of these tokens, scaled as the first layer reads them."""
        return input_rows(self.weights, token_ids) * np.float32(self.config.embedding_scale)

    def layer(self, spec: LayerSpec) -> NativeLayer:
        """A decoder layer of the caller's, on the model's threads."""
        return NativeLayer(spec, threads=self.threads, beside=self._decoder)


def check_ranges(options: Mapping[str, Any]) -> None:
    """Raise an OutpaceError for options of a NativeTarget that are in no model's range."""
    for name, (least, most) in RANGES.items():
        if options.get(name) is not None:
            whole(name, options[name], least, most)


class _Closed:
    """In place of the decoder of a target that is closed."""

    def close(self, row: int) -> None:
        """A row went with its decoder."""

    def __getattr__(self, name: str) -> Any:
        raise OutpaceError("the model is closed, accepted is one that is loaded anew")
