"""A pixel-autoregressive model as a target: pictures written from small ones, intensity by intensity.

    prefill   takes prompts that carry a small picture; what it says of every intensity is computed here, once
    score     a tree of intensities in one call: a cache with rows (`hf_cache.py`), of which the model's
              attention gets no more than its window, and a mask (`hf_masks.py`)

The model is that of `pixel_model.py`. "identical" holds up to floating-point ties, as in `hf_causal.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from outpace.core.contracts import Exactness
from outpace.core.errors import OutpaceError
from outpace.core.tree import Shape, TokenTree
from outpace.targets.hf_cache import SlotCache
from outpace.targets.hf_linears import linears_of
from outpace.targets.hf_masks import tree_masks
from outpace.targets.hf_products import TorchProduct
from outpace.targets.hf_rows import check_room, keep_prompts, texts_of
from outpace.targets.hf_scores import LOGITS, MAX_NODES, States, TorchScores, scores_of
from outpace.targets.hf_taps import FINAL, TappedModel, Taps
from outpace.targets.pixel_model import NUM_LEVELS, START, PixelModel


class PixelPrompt(tuple[int, ...]):
    """A small picture, and the first tokens of the large one: a prompt for `prefill` or a Request.

    small   u8[h, w, C], or u8[h, w] where a picture has one channel.
    tokens  START, and any intensities that are known.
    """

    small: NDArray[np.uint8]

    def __new__(cls, small: NDArray[np.uint8], tokens: Iterable[int] = (START,)) -> Self:
        prompt = super().__new__(cls, tokens)
        prompt.small = small
        return prompt

    @property
    def beside(self) -> Hashable:
        """What else makes a prompt the same one: its picture."""
        return self.small.tobytes()


class PixelTarget(TappedModel):
    """A model, or the folder of one, with its rows. Its vocabulary is the intensities, in order, and START.

    Nothing ends a picture: who wants one asks for as many tokens as it has intensities.
    """

    exactness: Exactness = "identical"
    rounds = True  # the same logits only up to the order of summation
    max_nodes = MAX_NODES
    vocab_size = NUM_LEVELS + 1
    eos_ids: frozenset[int] = frozenset()

    def __init__(self, model: PixelModel | str | Path, *, kernels: str = "torch") -> None:
        self.model = model if isinstance(model, PixelModel) else PixelModel.open(Path(model))
        config = self.model.config
        self.context_length = config.num_intensities
        self._window = config.window
        self._device = self.model.output.weight.device
        self._taps = Taps(self.model, self.model, config.num_layers)
        self._linears = linears_of(self.model, kernels)
        self._cache = SlotCache(self._device, max_slots=self.context_length)
        self._places: dict[int, Tensor] = {}  # row -> [N, D]

    def prefill(
        self, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]] | None = None
    ) -> tuple[list[int], TorchScores]:
        """Cache the prompts, which are `PixelPrompt`s, in new rows.

        The scores are of their last tokens and of the drafts after them.
        Raises PromptTooLong for a prompt that does not fit, OutpaceError for one without a small picture.
        """
        smalls = [self._small_of(prompt) for prompt in prompts]
        texts, depths = texts_of(prompts, drafts, self.context_length)
        with torch.no_grad():
            places = self.model.places(torch.from_numpy(np.stack(smalls)).to(self._device))
        self._linears.look()
        rows = self._cache.open(len(prompts))
        self._places |= zip(rows, places, strict=True)
        try:
            states = self._forward(rows, texts, [Shape.chain(len(text)) for text in texts])
        except BaseException:
            self.free(rows)
            raise
        keep_prompts(self._cache, rows, prompts, drafts)
        width = states[LOGITS].shape[1]
        firsts = [row * width + len(prompt) - 1 for row, prompt in enumerate(prompts)]
        return rows, scores_of(states, firsts, depths)

    def score(self, rows: Sequence[int], trees: Sequence[TokenTree]) -> TorchScores:
        """Run every node of every tree in one call; nothing is committed."""
        check_room(self._cache, rows, trees, self.context_length)
        shapes = [tree.shape for tree in trees]
        states = self._forward(rows, [tree.token_list for tree in trees], shapes)
        firsts = [states[LOGITS].shape[1] * row for row in range(len(rows))]
        return scores_of(states, firsts, [shape.depths for shape in shapes])

    def tap(self, *names: str) -> None:
        """See `Tapped`. "final" is at hand in every call, without a hook."""
        self._taps.add([name for name in names if name != FINAL])

    def keep(self, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        """Commit the roots of the last `score` of these rows and the given nodes after them."""
        self._cache.keep(rows, paths)

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens, copied, and the same small picture."""
        copy = self._cache.fork(row)
        self._places[copy] = self._places[row]
        return copy

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back. Their memory stays allotted for others."""
        self._cache.free(rows)
        for row in rows:
            del self._places[row]

    def length(self, row: int) -> int:
        """How many tokens the row has cached."""
        return self._cache.length(row)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return self._cache.num_rows

    def projection(self, token_ids: NDArray[np.integer] | None = None) -> TorchProduct:
        """The output matrix, or these rows of it, for states at "final"."""
        output = self.model.output
        rows = slice(None) if token_ids is None else torch.from_numpy(np.asarray(token_ids, dtype=np.int64))
        return TorchProduct(output.weight[rows], output.bias[rows])

    def _small_of(self, prompt: Sequence[int]) -> NDArray[np.uint8]:
        if not isinstance(prompt, PixelPrompt):
            raise OutpaceError(
                f"the prompt is a {type(prompt).__name__} without a picture, accepted is PixelPrompt(small)"
            )
        shape, small = self.model.config.small_shape, prompt.small
        if small.dtype != np.uint8 or small.shape not in (shape, shape[:2] if shape[2] == 1 else shape):
            raise OutpaceError(
                f"the small picture is {small.dtype}{list(small.shape)}, accepted is uint8{list(shape)}"
            )
        return small.reshape(shape)

    def _forward(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]], shapes: Sequence[Shape]
    ) -> States:
        """What the model makes of all nodes, padded."""
        if min(map(min, texts)) < 0 or max(map(max, texts)) >= self.vocab_size:
            raise OutpaceError(f"token ids are not all from 0 to {self.vocab_size - 1}")
        num_nodes = max(map(len, texts))
        lengths = [self._cache.length(row) for row in rows]
        inputs = np.zeros((2, len(rows), num_nodes), dtype=np.int64)
        for row, (text, shape, length) in enumerate(zip(texts, shapes, lengths, strict=True)):
            inputs[0, row, : len(text)] = text
            inputs[1, row, : len(text)] = shape.depths
            inputs[1, row, : len(text)] += length
        in_sight = self._cache.aim(rows, num_nodes)
        tokens, positions = torch.from_numpy(inputs).to(self._device, non_blocking=True)
        first = max(0, min(lengths) - self._window + 1)  # no node sees a slot before it
        if len(set(lengths)) == 1 and all(shape.is_chain for shape in shapes):
            mask = _chain_mask(num_nodes, lengths[0] - first, self._window, self._device)
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
