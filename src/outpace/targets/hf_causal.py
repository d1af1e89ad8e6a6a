"""A decoder-only transformers model as a target: unmodified, one forward call per step, rows in a slot cache.

The tree is in the arguments of the call: a 4-D additive mask (`hf_masks.py`), explicit position_ids, and a
`Cache` of our own (`hf_cache.py`) that the model's attention fills. Nothing stays behind in the model.

"identical" holds up to floating-point ties: torch's kernels sum in an order that depends on the shape of a
call, so that logits differ in their last digits between one token and a block of them. Where two tokens are
that close, the choice may fall either way. In f32 that is rare, in bf16 and f16 it is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outpace.core.contracts import Exactness
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.targets.hf_cache import SlotCache
from outpace.targets.hf_linears import linears_of
from outpace.targets.hf_masks import tree_masks
from outpace.targets.hf_models import TESTED, check_mode, inspect_model
from outpace.targets.hf_rows import check_room, keep_prompts, texts_of
from outpace.targets.hf_scores import LOGITS, MAX_NODES, States, TorchScores, scores_of
from outpace.targets.hf_taps import TappedModel, Taps
from outpace.targets.hf_wrapped import plain_model


class HfCausalTarget(TappedModel):
    """A loaded model (`AutoModelForCausalLM...eval()`, also under torch.compile) with its rows.

    context_length  caps the model's own; positions beyond it are refused.
    taps            what `Scores.hidden` should offer: layers (0 = first), by their output, and "final", what
                    the output matrix reads. They are taken during a call only, of the calling thread alone.
    kernels         who multiplies in linear layers: "torch", or "block" (see `hf_linears.py`).

    Models that cannot score a tree or keep a path are refused: see `hf_models.py`.
    """

    exactness: Exactness = "identical"
    rounds = True  # the same logits only up to the order of summation
    max_nodes = MAX_NODES

    def __init__(
        self,
        model: Any,
        *,
        context_length: int | None = None,
        taps: Sequence[int | str] = (),
        kernels: str = "torch",
    ) -> None:
        model = plain_model(model)
        facts = inspect_model(model)
        if context_length is not None and not 1 <= context_length <= facts.context_length:
            raise OutpaceError(
                f"context_length is {context_length}, accepted are 1 to {facts.context_length}"
            )
        self.model = model
        self.vocab_size = facts.vocab_size
        self.context_length = context_length or facts.context_length
        self.eos_ids = facts.eos_ids
        self._taps = Taps(model, model.base_model, facts.num_layers)
        self._taps.add(taps)
        self._linears = linears_of(model, kernels)
        self._facts = facts
        self._cache = SlotCache(self._device, max_slots=self.context_length)
        # The rows of the last call: tree, states, and the row's place in these.
        self._last: dict[int, tuple[TokenTree, States, int]] = {}
        if facts.name not in TESTED:
            self._try_a_tree()

    def prefill(
        self, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]] | None = None
    ) -> tuple[list[int], TorchScores]:
        """Cache the prompts in new rows; the scores are of their last tokens and of the drafts after them.

        Raises PromptTooLong for a prompt that does not fit, OutpaceError for an empty one.
        """
        texts, depths = texts_of(prompts, drafts, self.context_length)
        self._last = {}
        self._linears.look()
        rows = self._cache.open(len(prompts))
        try:
            trees = [TokenTree.chain(text[0], text[1:]) for text in texts]
            firsts = [len(prompt) - 1 for prompt in prompts]
            wanted = None
            if self._facts.picks_logits and not self._taps.names:
                pairs = zip(firsts, depths, strict=True)
                wanted = sorted({first + depth for first, row in pairs for depth in row})
            states = self._forward(rows, trees, [0] * len(rows), wanted)
        except BaseException:
            self._cache.free(rows)
            raise
        keep_prompts(self._cache, rows, prompts, drafts)
        columns = firsts if wanted is None else [wanted.index(first) for first in firsts]
        width = states[LOGITS].shape[1]
        return rows, scores_of(states, [row * width + c for row, c in enumerate(columns)], depths)

    def score(self, rows: Sequence[int], trees: Sequence[TokenTree]) -> TorchScores:
        """Run every node of every tree in one call; nothing is committed."""
        check_room(self._cache, rows, trees, self.context_length)
        self._last = {}
        states = self._forward(rows, trees, [0] * len(rows))
        self._last = {
            row: (tree, states, place) for place, (row, tree) in enumerate(zip(rows, trees, strict=True))
        }
        firsts = [states[LOGITS].shape[1] * row for row in range(len(rows))]
        return scores_of(states, firsts, [tree.shape.depths for tree in trees])

    def score_grown(self, rows: Sequence[int], trees: Sequence[TokenTree]) -> TorchScores:
        """As `score`, for trees that grow: a tree's first nodes that the row's last call has run are known.

        Only the nodes after them are run. Who grows a tree level by level pays for every node once.
        """
        check_room(self._cache, rows, trees, self.context_length)
        known = [
            _num_known(self._last[row][0], tree) if row in self._last else 0
            for row, tree in zip(rows, trees, strict=True)
        ]
        last, self._last = self._last, {}
        new = self._forward(rows, trees, known)
        parts: dict[str, list[Tensor]] = {name: [] for name in new}
        for place, (row, tree, old) in enumerate(zip(rows, trees, known, strict=True)):
            for name, states in new.items():
                if old:
                    _, before, at = last[row]
                    parts[name].append(before[name][at, :old])
                parts[name].append(states[place, : tree.num_nodes - old])
        ends = list(itertools.accumulate((tree.num_nodes for tree in trees), initial=0))
        joined = {name: torch.cat(part)[None] for name, part in parts.items()}
        for row, tree, (first, end) in zip(rows, trees, itertools.pairwise(ends), strict=True):
            self._last[row] = (tree, {name: states[:, first:end] for name, states in joined.items()}, 0)
        return scores_of(joined, ends[:-1], [tree.shape.depths for tree in trees])

    def keep(self, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        """Commit the roots of the last `score` of these rows and the given nodes after them."""
        self._cache.keep(rows, paths)
        for row in rows:
            self._last.pop(row, None)

    def fork(self, row: int) -> int:
        """A new row with the same cached tokens, copied."""
        return self._cache.fork(row)

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back. Their memory stays allotted for others."""
        self._cache.free(rows)
        for row in rows:
            self._last.pop(row, None)

    def length(self, row: int) -> int:
        """How many tokens the row has cached."""
        return self._cache.length(row)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return self._cache.num_rows

    @property
    def cache_bytes(self) -> int:
        """Bytes allotted to keys and values."""
        return self._cache.num_bytes

    @property
    def _device(self) -> torch.device:
        """Where token ids go: asked anew in every call, as a model may be moved."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def _dtype(self) -> torch.dtype:
        """Of masks; a model may be converted, too."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def _forward(
        self,
        rows: Sequence[int],
        trees: Sequence[TokenTree],
        known: Sequence[int],
        wanted: Sequence[int] | None = None,
    ) -> States:
        """Run the nodes after the `known` ones: all, padded to N, or the `wanted` ones of every row."""
        texts = [tree.token_list[old:] for tree, old in zip(trees, known, strict=True)]
        check_mode(self.model, self.vocab_size)
        if min(map(min, texts)) < 0 or max(map(max, texts)) >= self.vocab_size:
            raise OutpaceError(f"token ids are not all from 0 to {self.vocab_size - 1}")
        shapes = [tree.shape for tree in trees]
        lengths = [self._cache.length(row) for row in rows]
        inputs = np.zeros((2, len(rows), max(map(len, texts))), dtype=np.int64)
        for row, (text, shape, length, old) in enumerate(zip(texts, shapes, lengths, known, strict=True)):
            inputs[0, row, : len(text)] = text
            inputs[1, row, : len(text)] = shape.depths[old:]
            inputs[1, row, : len(text)] += length
        in_sight = self._cache.aim(rows, inputs.shape[2], known)
        tokens, positions = torch.from_numpy(inputs).to(self._device, non_blocking=True)
        # Without a mask the model makes its own causal one, for which there are quicker kernels. It is the
        # right one for chains that all begin at the same slot.
        starts = {length + old for length, old in zip(lengths, known, strict=True)}
        plain = len(starts) == 1 and all(shape.is_chain for shape in shapes)
        mask = None
        if not plain or (starts != {0} and inputs.shape[2] > 1):
            windows = self._facts.windows
            masks = tree_masks(shapes, positions, in_sight, list(windows.values()), self._dtype, known=known)
            mask = masks[0] if len(windows) == 1 else dict(zip(windows, masks, strict=True))
        picked = {} if wanted is None else {"logits_to_keep": torch.tensor(wanted, device=self._device)}
        with torch.no_grad(), self._linears(), self._taps.taken() as states:
            states[LOGITS] = self.model(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=self._cache,
                use_cache=True,
                **picked,
            ).logits
        return states

    def _try_a_tree(self) -> None:
        """Refuse a model whose nodes do not see their own path: all that masks and positions should do."""
        token = [(7 * i + 1) % self.vocab_size for i in range(6)]
        tree = TokenTree(token[2:], [-1, 0, 0, 1])
        try:
            rows, _ = self.prefill([token[:2]])
            scores = self.score(rows, [tree])
            for path in tree.paths():
                text = [*token[:2], *(tree.token_list[node] for node in path)]
                with torch.no_grad():
                    alone = self.model(torch.tensor([text], device=self._device), use_cache=False).logits
                alone = alone[0, 2:].float().cpu().numpy()
                apart = np.abs(scores.logits(0, path) - alone).max()
                if not apart < 0.05 * alone.std():
                    raise ValueError(f"the logits of a tree's path are off by {apart:.2g}")
            self.free(rows)
        except Exception as error:
            raise OutpaceError(
                f"the model type {self._facts.name!r} cannot be a target: a tree could not be scored "
                f"({error}); tested are {', '.join(TESTED)}"
            ) from error


def _num_known(before: TokenTree, tree: TokenTree) -> int:
    """How many of a tree's first nodes are those of another; the tree's last node always counts as new."""
    most = min(before.num_nodes, tree.num_nodes - 1)
    for node in range(most):
        if before.token_list[node] != tree.token_list[node]:
            return node
        if before.shape.parent_list[node] != tree.shape.parent_list[node]:
            return node
    return most
