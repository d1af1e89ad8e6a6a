"""An encoder-decoder transformers model as a target: texts that are written from a source.

    encode    runs the encoder, once per source
    open      takes a source; the decoder's first call on it caches the keys and values of its cross
              attention, once for all rows of a source (`fork` shares them), till the last of them ends
    score     a tree of the decoder's tokens in one call: a 4-D mask (`hf_masks.py`), a cache with rows
              (`hf_cache.py`) for the decoder and one for the sources, positions that are told in the calling
              thread as long as the call lasts (`hf_seq2seq_positions.py`)

The model is unmodified and nothing stays behind in it. "identical" holds up to floating-point ties, as in
`hf_causal.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache

from outpace.core.call import Call, Kept, Source, wrong_source
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.targets.hf_cache import SlotCache, keep_calls
from outpace.targets.hf_masks import tree_masks
from outpace.targets.hf_models import check_mode
from outpace.targets.hf_rows import SlotTarget, try_a_tree
from outpace.targets.hf_scores import LOGITS, States, TorchScores, scores_of
from outpace.targets.hf_seq2seq_models import TESTED, inspect_seq2seq
from outpace.targets.hf_wrapped import plain_model

TYPICAL_SOURCE = 32  # tokens


class Encoded:
    """What a text is written from (a `core.call.Source`), encoded: made by `HfSeq2SeqTarget.encode`.

    states  [S, D]: the encoder's output, padding left out.
    ids     the S token ids that were encoded; None where they are none, as in speech.
    """

    __slots__ = ("ids", "states")

    def __init__(self, states: Tensor, ids: list[int] | None) -> None:
        self.states = states
        self.ids = ids

    @property
    def key(self) -> Hashable:
        """The tokens; where there are none, only the same object is the same source."""
        return id(self) if self.ids is None else tuple(self.ids)


class HfSeq2SeqTarget(SlotTarget):
    """A loaded model (`AutoModelForSeq2SeqLM...eval()`, or Whisper's) with its rows.

    context_length  caps the decoder's own; positions beyond it are refused.

    Models whose decoder cannot be told positions are refused: see `hf_seq2seq_models.py`.
    """

    def __init__(self, model: Any, *, context_length: int | None = None, kernels: str = "torch") -> None:
        model = plain_model(model)
        facts = inspect_seq2seq(model)
        self._take(model, model.get_decoder(), facts, context_length, kernels)
        self._facts = facts
        self._cross = SlotCache(self._device)
        self._last: dict[int, Call] = {}
        self._sources: dict[int, Encoded] = {}  # row -> its source
        self._cross_rows: dict[Encoded, int] = {}  # the sources of rows -> their rows in the cross cache
        if facts.name not in TESTED:
            self._try_a_tree()

    def encode(self, inputs: Tensor, attention_mask: Tensor | None = None) -> list[Encoded]:
        """Run the encoder on a batch of sources. An OutpaceError for inputs that it does not read.

        inputs          i64[B, S] token ids, or whatever else the encoder reads (Whisper: features
                        [B, mel, frames]).
        attention_mask  [B, S], 0 for padding, on either side; None: there is none. Not for speech, whose
                        sources have one length.
        """
        check_mode(self.model)
        encoder, mask = self.model.get_encoder(), attention_mask
        is_text = not inputs.is_floating_point()
        self._check_inputs(inputs, is_text)
        if mask is not None and (not is_text or mask.shape != inputs.shape):
            expected = f"that of the token ids, {tuple(inputs.shape)}" if is_text else "None for features"
            raise OutpaceError(f"attention_mask has shape {tuple(mask.shape)}, accepted is {expected}")
        with torch.no_grad():
            states = encoder(inputs, attention_mask=mask, return_dict=True).last_hidden_state
        if not is_text:
            return [Encoded(row, None) for row in states]
        masks = torch.ones_like(inputs, dtype=torch.bool) if mask is None else mask.bool()
        if not masks.any(dim=1).all():
            raise OutpaceError("a source is empty, accepted are sources of 1 token or more")
        return [
            Encoded(row[kept.to(row.device)], ids[kept].tolist())
            for row, ids, kept in zip(states, inputs, masks, strict=True)
        ]

    def _check_inputs(self, inputs: Tensor, is_text: bool) -> None:
        """OutpaceError for what this encoder does not read."""
        if is_text != (self.model.main_input_name == "input_ids"):
            kind = "token ids" if is_text else "features"
            raise OutpaceError(
                f"the sources are {kind}, accepted are the model's {self.model.main_input_name}"
            )
        num_known = self.model.get_input_embeddings().weight.shape[0]
        if is_text and (inputs.min() < 0 or inputs.max() >= num_known):
            raise OutpaceError(f"the sources have token ids outside 0 to {num_known - 1}")
        if not is_text and inputs.dtype != self._dtype and not torch.is_autocast_enabled(inputs.device.type):
            raise OutpaceError(f"the sources are in {inputs.dtype}, accepted is the model's {self._dtype}")

    def typical_source(self) -> Encoded:
        """To measure with: of some length, and it says nothing."""
        return Encoded(
            torch.zeros((TYPICAL_SOURCE, self._facts.width), dtype=self._dtype, device=self._device), None
        )

    def open(self, source: Source | None = None) -> int:
        """A new row without tokens, written from a source of `encode`; else an OutpaceError."""
        if not isinstance(source, Encoded):
            raise wrong_source(source, "Prompt(tokens, source) with a source from encode")
        (row,) = self._cache.open()
        self._sources[row] = source
        return row

    def score(self, calls: Sequence[Call]) -> TorchScores:
        """Run what is pending and every node of every tree, in one call; nothing is committed.

        Sources that are new are cached on the way.
        """
        self._check_calls(calls)
        trees = [call.joined for call in calls]
        check_mode(self.model, self.vocab_size)
        self._check_tokens(trees)
        rows = [call.row for call in calls]
        new = {source: call for call in calls if (source := self._sources[call.row]) not in self._cross_rows}
        self._cross_rows |= zip(new, self._cross.open(len(new)), strict=True)
        try:
            if 0 < len(new) < len(calls):
                # One call either fills the cross cache or reads it: new sources go first, with a token each.
                firsts = [TokenTree.root(call.pending[0]) for call in new.values()]
                self._forward([call.row for call in new.values()], firsts, list(new))
                states, width = self._forward(rows, trees)
            else:
                states, width = self._forward(rows, trees, list(new))
        except BaseException:
            self._cross.free([self._cross_rows.pop(source) for source in new])
            raise
        self._last = {call.row: call for call in calls}
        starts = [width * place + call.lead for place, call in enumerate(calls)]
        return scores_of(states, starts, calls)

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        """Commit what was pending in the last `score`, of these rows, and the given nodes."""
        keep_calls(self._cache, self._last, rows, paths)

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens, copied, and the same source, shared."""
        copy = super().fork(row)
        self._sources[copy] = self._sources[row]
        return copy

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back, and the cached sources that no row is left of. Their memory stays allotted."""
        self._cache.free(rows)
        left = {self._sources.pop(row) for row in rows}.difference(self._sources.values())
        self._cross.free([self._cross_rows.pop(source) for source in left if source in self._cross_rows])

    @property
    def num_sources(self) -> int:
        """Sources that rows in use are written from."""
        return self._cross.num_rows

    @property
    def cache_bytes(self) -> int:
        """Bytes allotted to keys and values, those of the sources included."""
        return self._cache.num_bytes + self._cross.num_bytes

    def _forward(
        self, rows: Sequence[int], trees: Sequence[TokenTree], fill: Sequence[Encoded] = ()
    ) -> tuple[States, int]:
        """(states of all nodes, padded, and their number N). `fill`: the rows' sources, if not cached."""
        shapes = [tree.shape for tree in trees]
        lengths = [self._cache.length(row) for row in rows]
        tokens, positions, in_sight = self._placed(rows, trees, lengths)
        num_nodes = tokens.shape[1]
        plain = len(set(lengths)) == 1 and all(shape.is_chain for shape in shapes)
        mask = None  # then the model makes its own causal one
        if not plain or (lengths[0] > 0 and num_nodes > 1):
            (mask,) = tree_masks(shapes, positions, in_sight, [None], self._dtype)
        encoded, source_mask = self._sources_of(rows, fill)
        slot_positions = _slot_positions(positions, in_sight)
        placing = self._facts.placing.at(positions, slot_positions)
        with torch.no_grad(), placing, self._linears(), self._taps.taken() as states:
            states[LOGITS] = self.model(
                encoder_outputs=(encoded,),
                attention_mask=source_mask,
                decoder_input_ids=tokens,
                decoder_attention_mask=mask,
                past_key_values=EncoderDecoderCache(self._cache, self._cross),
                use_cache=True,
            ).logits
        if fill:
            self._cross.keep([self._cross_rows[s] for s in fill], [range(1, len(s.states)) for s in fill])
        return states, num_nodes

    def _sources_of(self, rows: Sequence[int], fill: Sequence[Encoded]) -> tuple[Tensor, Tensor | None]:
        """([B, S, D], bool[B, S] or None): the rows' sources padded to the longest, and where they are.

        The values count where the cross cache is to be filled from them; else only the shape does.
        """
        sources = [self._sources[row] for row in rows]
        sizes = [len(source.states) for source in sources]
        longest = max(sizes)
        self._cross.aim([self._cross_rows[source] for source in sources], longest if fill else 0)
        if fill:
            states = torch.nn.utils.rnn.pad_sequence([s.states for s in sources], batch_first=True)
        else:
            states = torch.zeros((), dtype=self._dtype, device=self._device)
            states = states.expand(len(rows), longest, self._facts.width)
        if min(sizes) == longest:
            return states, None
        places = torch.arange(longest, device=self._device)
        return states, places < torch.tensor(sizes, device=self._device)[:, None]

    def _try_a_tree(self) -> None:
        """See `try_a_tree`: beside a row of another source."""
        generator = torch.Generator().manual_seed(0)
        states = torch.randn((5, self._facts.width), generator=generator).to(self._device, self._dtype)

        def alone(ids: Tensor) -> Any:
            ids = ids.to(self._device)
            return self.model(encoder_outputs=(states[None],), decoder_input_ids=ids, use_cache=False)

        try_a_tree(self, self._facts.name, TESTED, alone, [Encoded(states, None), Encoded(states[:3], None)])


def _slot_positions(positions: Tensor, in_sight: int) -> Tensor:
    """i64[B, in_sight]: where the tokens in a call's slots stand; node i of a row has slot `length + i`."""
    nodes = positions[:, :1] + torch.arange(positions.shape[1], device=positions.device)
    slots = torch.arange(in_sight, device=positions.device).repeat(len(positions), 1)
    return slots.scatter_(1, nodes, positions)
