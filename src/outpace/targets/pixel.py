"""A pixel-autoregressive model as a target: pictures written from small ones, intensity by intensity.

    open      takes a small picture; what it says of every intensity is computed here, once
    score     a tree of intensities in one call: a cache with rows (`hf_cache.py`), of which the model's
              attention gets no more than its window, and a mask (`hf_masks.py`)

The model is that of `pixel_model.py`. "identical" holds up to floating-point ties, as in `hf_causal.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from outpace.core.call import Call, Kept, Prompt, Source, wrong_source
from outpace.core.errors import OutpaceError
from outpace.core.tree import Shape, TokenTree
from outpace.targets.hf_cache import SlotCache, keep_calls
from outpace.targets.hf_linears import linears_of
from outpace.targets.hf_masks import tree_masks
from outpace.targets.hf_products import TorchProduct
from outpace.targets.hf_rows import SlotTarget
from outpace.targets.hf_scores import LOGITS, States, TorchScores, scores_of
from outpace.targets.hf_taps import FINAL, Taps
from outpace.targets.pixel_model import NUM_LEVELS, START, PixelModel


class SmallPicture:
    """What a large picture is written from (a `Source`): u8[h, w, C], or u8[h, w] of one channel."""

    ids = None

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels

    @property
    def key(self) -> Hashable:
        """Its bytes."""
        return self.pixels.tobytes()


def pixel_prompt(small: NDArray[np.uint8], tokens: Iterable[int] = (START,)) -> Prompt:
    """The prompt of a small picture: START, and any intensities that are known."""
    return Prompt(tokens, SmallPicture(small))


class PixelTarget(SlotTarget):
    """A model, or the folder of one, with its rows. Its vocabulary is the intensities, in order, and START.

    Nothing ends a picture: who wants one asks for as many tokens as it has intensities.
    """

    vocab_size = NUM_LEVELS + 1
    eos_ids: frozenset[int] = frozenset()

    def __init__(self, model: PixelModel | str | Path, *, kernels: str = "torch") -> None:
        self.model = model if isinstance(model, PixelModel) else PixelModel.open(Path(model))
        config = self.model.config
        self.context_length = config.num_intensities
        self._window = config.window
        self._taps = Taps(self.model, self.model, config.num_layers)
        self._linears = linears_of(self.model, kernels)
        self._cache = SlotCache(self._device, max_slots=self.context_length)
        self._places: dict[int, Tensor] = {}  # row -> [N, D]
        self._last: dict[int, Call] = {}

    def open(self, source: Source | None = None) -> int:
        """A new row without tokens, whose picture is written from a `SmallPicture`."""
        small = self._small_of(source)
        with torch.no_grad():
            (places,) = self.model.places(torch.from_numpy(small[None]).to(self._device))
        (row,) = self._cache.open()
        self._places[row] = places
        return row

    def score(self, calls: Sequence[Call]) -> TorchScores:
        """Run what is pending and every node of every tree, in one call; nothing is committed."""
        self._check_calls(calls)
        states = self._forward([call.row for call in calls], [call.joined for call in calls])
        self._last = {call.row: call for call in calls}
        starts = [states[LOGITS].shape[1] * place + call.lead for place, call in enumerate(calls)]
        return scores_of(states, starts, calls)

    def tap(self, *names: str) -> None:
        """See `Tapped`. "final" is at hand in every call, without a hook."""
        self._taps.add([name for name in names if name != FINAL])

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        """Commit what was pending in the last `score`, of these rows, and the given nodes."""
        keep_calls(self._cache, self._last, rows, paths)

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens, copied, and the same small picture."""
        copy = super().fork(row)
        self._places[copy] = self._places[row]
        return copy

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back. Their memory stays allotted for others."""
        self._cache.free(rows)
        for row in rows:
            del self._places[row]

    @property
    def _device(self) -> torch.device:
        return self.model.output.weight.device

    def projection(self, token_ids: NDArray[np.integer] | None = None) -> TorchProduct:
        """The output matrix, or these rows of it, for states at "final"."""
        output = self.model.output
        rows = slice(None) if token_ids is None else torch.from_numpy(np.asarray(token_ids, dtype=np.int64))
        return TorchProduct(output.weight[rows], output.bias[rows])

    def output_rows(self, token_ids: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """f32[M, D]: the output matrix, or these rows of it."""
        weight: NDArray[np.float32] = self.model.output.weight.detach().float().cpu().numpy()
        return weight if token_ids is None else weight[token_ids]

    def _small_of(self, source: Source | None) -> NDArray[np.uint8]:
        if not isinstance(source, SmallPicture):
            raise wrong_source(source, "pixel_prompt(small)")
        shape, small = self.model.config.small_shape, source.pixels
        if small.dtype != np.uint8 or small.shape not in (shape, shape[:2] if shape[2] == 1 else shape):
            raise OutpaceError(
                f"the small picture is {small.dtype}{list(small.shape)}, accepted is uint8{list(shape)}"
            )
        return small.reshape(shape)

    def _forward(self, rows: Sequence[int], trees: Sequence[TokenTree]) -> States:
        """What the model makes of all nodes, padded."""
        self._check_tokens(trees)
        shapes = [tree.shape for tree in trees]
        lengths = [self._cache.length(row) for row in rows]
        tokens, positions, in_sight = self._placed(rows, trees, lengths)
        first = max(0, min(lengths) - self._window + 1)  # no node sees a slot before it
        if len(set(lengths)) == 1 and all(shape.is_chain for shape in shapes):
            mask = _chain_mask(tokens.shape[1], lengths[0] - first, self._window, self._device)
        else:
            (mask,) = tree_masks(shapes, positions, in_sight, [self._window], torch.float32)
            mask = mask[..., first:]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys, values = (x[:, :, first:] for x in self._cache.update(keys, values, layer))
            return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)

        with torch.no_grad(), self._linears(), self._taps.taken() as states:
            places = torch.stack([self._places[row][at] for row, at in zip(rows, positions, strict=True)])
            states[FINAL] = self.model.states(tokens, places, positions, attend)
            states[LOGITS] = self.model.output(states[FINAL])
        return states


@lru_cache(maxsize=256)
def _chain_mask(num_nodes: int, num_seen: int, window: int, device: torch.device) -> Tensor | None:
    """Additive mask [1, 1, N, num_seen + N] of a chain behind slots of which its first node sees all.

    None where all is in sight. Rows that write pictures ask for the same few again and again.
    """
    if num_nodes == 1:
        return None
    positions = torch.arange(num_seen, num_seen + num_nodes, device=device)[None]
    chain = [Shape.chain(num_nodes)]
    (mask,) = tree_masks(chain, positions, num_seen + num_nodes, [window], torch.float32)
    return mask
