"""Scores of a call whose logits are a torch tensor: argmax and top-k on its device, the rest on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core import sampling as sampling_
from outpace.core.call import Call
from outpace.core.edits import Edit
from outpace.core.errors import OutpaceError
from outpace.core.sampling import NO_CHOICE, Sampling, gumbel, warp

LOGITS = "logits"
States = dict[str, Tensor]
"""The results of a call for every node, [B, N, ...] each: "logits", and hidden states by tap."""

NARROW = 512
"""Filters look at this many of the likeliest tokens first, and at all only where these do not decide."""


class TorchScores:
    """Scores from logits [M, V] of any float type, M the nodes of all rows with padding between them.

    logits  on any device; read as f32.
    firsts  per row, where its nodes begin.
    depths  per row, the depth of each of its nodes.
    hidden  hidden states [M, D] by tap.
    leads   per row, how many nodes before its first belong to it too: what it read before the root.
    """

    __slots__ = ("_depths", "_firsts", "_hidden", "_leads", "_logits")

    def __init__(
        self,
        logits: Tensor,
        firsts: Sequence[int],
        depths: Sequence[Sequence[int]],
        hidden: Mapping[str, Tensor],
        leads: Sequence[int] = (),
    ) -> None:
        self._logits = logits
        self._firsts = firsts
        self._depths = depths
        self._hidden = hidden
        self._leads = leads

    def choose(
        self,
        samplings: Sequence[Sampling],
        positions: Sequence[int],
        edits: Sequence[Sequence[Edit | None] | None] | None = None,
        top: int = 0,
    ) -> list[list[int]]:
        """The target's own choice after every node (see `contracts.Scores`), or NO_CHOICE."""
        greedy: list[int] | None = None
        choices: list[list[int]] = []
        for row, (sampling, position, depths) in enumerate(
            zip(samplings, positions, self._depths, strict=True)
        ):
            row_edits = edits[row] if edits is not None else None
            if sampling.temperature == 0 and row_edits is None:
                if greedy is None:
                    best = self._logits.argmax(dim=-1, keepdim=True)  # the first of equals, or no number
                    known = self._logits.gather(-1, best).isfinite()
                    greedy = best.where(known, NO_CHOICE).flatten().tolist()
                choices.append(greedy[self._firsts[row] : self._firsts[row] + len(depths)])
                continue
            raw = self._logits[self._at(row, range(len(depths)))].float()
            logits = raw if row_edits is None else _edited(raw, row_edits)
            chosen = _choices(logits, sampling, [position + 1 + depth for depth in depths])
            # What is no number is the largest; edits may be infinite.
            sound = raw.amax(dim=1).isfinite().tolist()
            choices.append([token if one else NO_CHOICE for token, one in zip(chosen, sound, strict=True)])
        return choices

    def logits(self, row: int, nodes: Sequence[int]) -> NDArray[np.float32]:
        """f32[n, V]: raw logits after these nodes."""
        picked: NDArray[np.float32] = self._logits[self._at(row, nodes)].float().cpu().numpy()
        return picked

    def law(self, row: int, node: int, sampling: Sampling) -> NDArray[np.float64]:
        """f64[V]: the law of the choice after a node."""
        return warp(self.logits(row, [node])[0], sampling)

    def top(self, row: int, nodes: Sequence[int], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """([n, k] ids, [n, k] raw logits): best first, lower id on ties."""
        return _top(self._logits[self._at(row, nodes)].float(), k)

    def hidden(self, tap: str) -> NDArray[np.float32]:
        """f32[N, D]: "final" (what the output matrix reads) or a tapped layer's number; rows in turn.

        An OutpaceError for any other tap.
        """
        picked = self._states(tap)
        if len(picked) != sum(map(len, self._depths)):  # there is padding
            every = [self._at(row, range(len(depths))) for row, depths in enumerate(self._depths)]
            picked = picked[torch.cat(every)]
        states: NDArray[np.float32] = picked.float().cpu().numpy()
        return states

    def read(self, row: int, tap: str) -> NDArray[np.float32]:
        """f32[P - 1, D]: those of the row's pending tokens before the root."""
        first = self._firsts[row]
        states: NDArray[np.float32] = (
            self._states(tap)[first - self._leads[row] : first].float().cpu().numpy()
        )
        return states

    def _states(self, tap: str) -> Tensor:
        if tap not in self._hidden:
            accepted = ", ".join(self._hidden) or "none: name taps when the target is made"
            raise OutpaceError(f"unknown tap {tap!r}, accepted are {accepted}")
        return self._hidden[tap]

    def _at(self, row: int, nodes: Sequence[int]) -> Tensor:
        count = len(self._depths[row])
        assert all(0 <= node < count for node in nodes), "a node that the tree does not have"
        first = self._firsts[row]
        return torch.tensor([first + node for node in nodes], device=self._logits.device)


def scores_of(states: States, firsts: Sequence[int], calls: Sequence[Call]) -> TorchScores:
    """Scores of the wanted calls from what a call gives, whose rows are flattened here.

    firsts: where the nodes of each call begin then.
    """
    flat = {name: state.flatten(0, 1) for name, state in states.items()}
    wanted = [pair for pair in zip(firsts, calls, strict=True) if pair[1].wanted]
    depths = [call.tree.shape.depths for _, call in wanted]
    leads = [call.lead for _, call in wanted]
    return TorchScores(flat.pop(LOGITS), [first for first, _ in wanted], depths, flat, leads)


def _edited(raw: Tensor, edits: Sequence[Edit | None]) -> Tensor:
    """`edits.edited` for logits f32[n, V], on their device."""
    logits = raw.clone()
    for row, edit in zip(logits, edits, strict=True):
        if edit is None:
            continue
        edit.check(len(row))
        ids, repeated = (torch.from_numpy(one).to(row.device).long() for one in (edit.ids, edit.repeated))
        row[ids] += torch.from_numpy(edit.added).to(row.device)
        some, penalty = row[repeated], row.new_tensor(edit.penalty)
        row[repeated] = torch.where(some < 0, some * penalty, some / penalty)
        if edit.allowed is not None:
            words = torch.from_numpy(edit.allowed).to(row.device)[:, None]
            bits = words >> torch.arange(8, device=row.device, dtype=torch.uint8) & 1
            row.masked_fill_(bits.flatten()[: len(row)] == 0, -torch.inf)
    return logits


def _choices(logits: Tensor, sampling: Sampling, positions: Sequence[int]) -> list[int]:
    """`sampling.choose` from logits f32[n, V], of which no more than needed leaves their device."""
    if sampling.temperature == 0:
        best = logits.argmax(dim=1, keepdim=True)
        chosen: list[int] = best.where(logits.gather(1, best) > -torch.inf, NO_CHOICE).flatten().tolist()
        return chosen
    if sampling.top_k == 0 and sampling.top_p == 1 and sampling.min_p == 0:
        return sampling_.choose(logits.cpu().numpy(), sampling, positions)
    ids, values = _top(logits, sampling.top_k or NARROW)
    totals = np.ones(len(positions))
    if sampling.top_p < 1 and not sampling.top_k:
        wide = logits.double()
        scaled = (wide - wide.amax(dim=1, keepdim=True)) / sampling.temperature
        totals = scaled.exp().sum(dim=1).cpu().numpy()
    choices = []
    decided = np.isfinite(values.max(axis=1))  # what is no number is among the likeliest
    for node, position in enumerate(positions):
        choice = None
        if decided[node]:
            choice = _narrow_choice(ids[node], values[node], totals[node], sampling, position)
        if choice is None:
            choice = sampling_.choose(logits[node : node + 1].cpu().numpy(), sampling, [position])[0]
        choices.append(choice)
    return choices


def _top(logits: Tensor, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """([n, k] ids, [n, k] values) of logits f32[n, V]: best first, lower id on ties."""
    best, ids = (found.cpu().numpy() for found in logits.topk(min(k, logits.shape[1])))
    # torch leaves open which of several equals come in.
    crowded = ((logits >= logits.new_tensor(best[:, -1:])).sum(dim=1) > best.shape[1]).tolist()
    order = np.lexsort((ids, -best))
    best, ids = np.take_along_axis(best, order, axis=1), np.take_along_axis(ids, order, axis=1)
    for node, more in enumerate(crowded):
        if more:
            values = logits[node].cpu().numpy()
            ids[node] = np.argsort(-values, kind="stable")[: ids.shape[1]]
            best[node] = values[ids[node]]
    return ids, best


def _narrow_choice(
    ids: NDArray[np.int64], values: NDArray[np.float32], total: float, sampling: Sampling, position: int
) -> int | None:
    """`sampling.choose` from the likeliest tokens alone, best first; None where others could matter.

    total: the weight of all tokens, the likeliest's being 1, up to rounding; unused with top_k.
    """
    with np.errstate(over="ignore"):
        scaled = (values.astype(np.float64) - values[0]) / sampling.temperature
    weight = np.exp(scaled)
    complete = bool(sampling.top_k)  # all tokens that the filters can leave are here
    keep = len(ids)
    if sampling.top_p < 1:
        ahead = np.cumsum(weight) - weight
        limit = sampling.top_p * (weight.sum() if sampling.top_k else total)
        if not complete and np.abs(ahead - limit).min() < 1e-9 * total:
            return None  # the order of summation could decide
        keep = int((ahead < limit).sum())
        complete = complete or keep < len(ids)
    keep = min(keep, int((weight >= sampling.min_p).sum()))
    if not complete and keep == len(ids):
        return None
    noisy = scaled[:keep] + gumbel(sampling.seed, position, ids[:keep])
    return int(ids[:keep][noisy == noisy.max()].min())
