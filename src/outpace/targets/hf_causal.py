"""A decoder-only transformers model as a target: unmodified, one forward call per step, rows in a slot cache.

The tree is in the arguments of the call: a 4-D additive mask (`hf_masks.py`), explicit position_ids, and a
`Cache` of our own (`hf_cache.py`) that the model's attention fills. Nothing stays behind in the model.

"identical" holds up to floating-point ties: torch's kernels sum in an order that depends on the shape of a
call, so that logits differ in their last digits between one token and a block of them. Where two tokens are
that close, the choice may fall either way. In f32 that is rare, in bf16 and f16 it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from outpace.core.call import Call, Kept, Source, refuse_source
from outpace.core.tree import TokenTree
from outpace.targets.hf_cache import keep_calls
from outpace.targets.hf_masks import tree_masks
from outpace.targets.hf_models import TESTED, check_mode, inspect_model
from outpace.targets.hf_rows import SlotTarget, try_a_tree
from outpace.targets.hf_scores import LOGITS, States, TorchScores, scores_of
from outpace.targets.hf_wrapped import plain_model


class HfCausalTarget(SlotTarget):
    """A loaded model (`AutoModelForCausalLM...eval()`, also under torch.compile) with its rows.

    context_length  caps the model's own; positions beyond it are refused.
    taps            what `Scores.hidden` should offer: layers (0 = first), by their output, and "final", what
                    the output matrix reads. They are taken during a call only, of the calling thread alone.
    kernels         who multiplies in linear layers: "torch", or "block" (see `hf_linears.py`).

    Models that cannot score a tree or keep a path are refused: see `hf_models.py`.
    """

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
        self._take(model, model.base_model, facts, context_length, kernels)
        self._taps.add(taps)
        self._facts = facts
        self._last: dict[int, Known] = {}  # the rows of the last call
        if facts.name not in TESTED:
            try_a_tree(self, facts.name, TESTED, lambda ids: model(ids.to(self._device), use_cache=False))

    def open(self, source: Source | None = None) -> int:
        """A new row without tokens."""
        refuse_source(source)
        (row,) = self._cache.open()
        return row

    def score(self, calls: Sequence[Call]) -> TorchScores:
        """Run what is pending and every node of every tree, in one call; nothing is committed.

        Of a tree that grows, the first nodes that the row's last call has run are not run again.
        """
        self._check_calls(calls)
        known = [self._known(call) for call in calls]
        last, self._last = self._last, {}
        firsts = [call.lead if old == 0 else old for call, old in zip(calls, known, strict=True)]
        states, columns = self._forward(calls, known, firsts)
        if any(known):
            states, columns = _joined(states, columns, calls, known, last)
        width = states[LOGITS].shape[1]
        for place, (call, column) in enumerate(zip(calls, columns, strict=True)):
            self._last[call.row] = Known(
                call, {name: state[place, column:] for name, state in states.items()}
            )
        starts = [place * width + column for place, column in enumerate(columns)]
        return scores_of(states, starts, calls)

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        """Commit what was pending in the last `score`, of these rows, and the given nodes."""
        keep_calls(self._cache, {row: self._last[row].call for row in rows}, rows, paths)
        for row, path in zip(rows, paths, strict=True):
            known = self._last.pop(row)
            if path is None:
                self._last[row] = replace(known, call=Call.on(row, known.call.tree))

    def free(self, rows: Sequence[int]) -> None:
        """Give rows back. Their memory stays allotted for others."""
        self._cache.free(rows)
        for row in rows:
            self._last.pop(row, None)

    def _known(self, call: Call) -> int:
        """How many of a call's first tokens the row's last call has run; the last is always new."""
        last = self._last.get(call.row)
        if last is None or list(last.call.pending) != list(call.pending):
            return 0
        nodes = num_known(last.call.tree, call.tree)
        return call.lead + nodes if nodes else 0

    def _forward(
        self, calls: Sequence[Call], known: Sequence[int], firsts: Sequence[int]
    ) -> tuple[States, list[int]]:
        """Run the tokens of every call after the `known` ones.

        Returns the states [B, N, ...], padded, and in which column each call's token number `firsts` is: the
        first that anybody reads.
        """
        trees = [call.joined for call in calls]
        rows = [call.row for call in calls]
        check_mode(self.model, self.vocab_size)
        self._check_tokens(trees)
        shapes = [tree.shape for tree in trees]
        lengths = [self._cache.length(row) for row in rows]
        tokens, positions, in_sight = self._placed(rows, trees, lengths, known)
        # Without a mask the model makes its own causal one, for which there are quicker kernels. It is the
        # right one for chains that all begin at the same slot.
        starts = {length + old for length, old in zip(lengths, known, strict=True)}
        plain = len(starts) == 1 and all(shape.is_chain for shape in shapes)
        mask = None
        if not plain or (starts != {0} and tokens.shape[1] > 1):
            windows = self._facts.windows
            masks = tree_masks(shapes, positions, in_sight, list(windows.values()), self._dtype, known=known)
            mask = masks[0] if len(windows) == 1 else dict(zip(windows, masks, strict=True))
        columns = [first - old for first, old in zip(firsts, known, strict=True)]
        picked = {}
        if self._facts.picks_logits and not self._taps.names and any(columns):
            ends = (tree.num_nodes - old for tree, old in zip(trees, known, strict=True))
            wanted = sorted({at for pair in zip(columns, ends, strict=True) for at in range(*pair)})
            picked = {"logits_to_keep": torch.tensor(wanted, device=self._device)}
            columns = [wanted.index(column) for column in columns]
        with torch.no_grad(), self._linears(), self._taps.taken() as states:
            states[LOGITS] = self.model(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=self._cache,
                use_cache=True,
                **picked,
            ).logits
        return states, columns


@dataclass(frozen=True, slots=True)
class Known:
    """What a row's last call has run: the call, and states [N, ...] of its tree's nodes and of padding."""

    call: Call
    states: States


def _joined(
    new: States,
    columns: Sequence[int],
    calls: Sequence[Call],
    known: Sequence[int],
    last: Mapping[int, Known],
) -> tuple[States, list[int]]:
    """States [B, N, ...] of the calls' trees, those of known nodes included, padded; all in column 0."""
    padded = {}
    for name, states in new.items():
        parts = []
        for place, (call, column, old) in enumerate(zip(calls, columns, known, strict=True)):
            num_old = old and old - call.lead
            part = states[place, column : column + call.tree.num_nodes - num_old]
            if num_old:
                part = torch.cat([last[call.row].states[name][:num_old], part])
            parts.append(part)
        padded[name] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return padded, [0] * len(calls)


def num_known(before: TokenTree, tree: TokenTree) -> int:
    """How many of a tree's first nodes are those of another; the tree's last node always counts as new."""
    most = min(before.num_nodes, tree.num_nodes - 1)
    for node in range(most):
        if before.token_list[node] != tree.token_list[node]:
            return node
        if before.shape.parent_list[node] != tree.shape.parent_list[node]:
            return node
    return most
