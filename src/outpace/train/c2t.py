"""Training of C2T's classifier: full trees of a drafter, and the nodes that the model's text goes through.

Huo et al. 2025, "C2T", arXiv:2502.13652, section 3. A tree with `k` nodes of `k` children on each level, none
ranked away, has a thousand nodes and three that are kept. So all of the kept ones are trained on, and a
few of the others for each of them, with binary cross-entropy.

Whether a node is kept is read from the text that the model writes plainly: the target scores a part of each
tree, no more. Deviation: a classifier that has seen too few of the nodes that are not kept thinks them too
likely; its output is moved by the logarithm of the share that it has seen (King & Zeng 2001, "Logistic
Regression in Rare Events Data"), so that what it says is a probability.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, relu

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter
from outpace.core.errors import OutpaceError
from outpace.core.steps import Ask, Candidates, Step
from outpace.core.tree import TokenTree
from outpace.files.whole import write_whole
from outpace.heads.c2t import FEATURES, C2TConfig, Classifier, entropy, features_of, read_c2t, write_c2t
from outpace.progress import Progress
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan, train
from outpace.trees.dynamic import Dynamic, joint
from outpace.trees.template import best

if TYPE_CHECKING:
    from outpace.models.text import Model

SCORED = 16  # nodes of a full tree
HELD_OUT = 20  # one tree of so many is for judging
Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class FullTree:
    """A tree, with the entropy of the law that each node was drawn from."""

    tree: TokenTree
    entropies: Sequence[float]


class FullTrees(Dynamic):
    """EAGLE-2's tree before it is ranked; the SCORED best nodes of it are drafted. `last` is the latest."""

    _name = "a full tree of k nodes and depth levels"

    def __init__(self, *, k: int = 10, depth: int = 10) -> None:
        super().__init__(size=k + (depth - 1) * k * k, k=k, depth=depth)
        self.last: FullTree | None = None
        self._entropies: list[float] = []

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """As EAGLE-2 does, and note the entropies."""
        if tree.num_nodes == 1:
            self._entropies = [0.0]
        after = {n: entropy(law) for n, law in zip(candidates.nodes, candidates.laws, strict=True)}
        grown = super().grow(tree, candidates)
        self._entropies += [after[parent] for parent in grown.shape.parent_list[tree.num_nodes :]]
        return grown

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """What is drafted."""
        self.last = FullTree(tree, self._entropies) if tree.num_nodes > 1 else None
        return tree.prune(best(joint(tree), 1 + min(budget, SCORED)))


class Watched:
    """A drafter whose trees a policy grows, one row at a time: `seen` has (position, full tree) of each."""

    def __init__(self, inner: Drafter, policy: FullTrees) -> None:
        self.inner, self._policy = inner, policy
        self.traits = inner.traits
        self.seen: list[tuple[int, FullTree]] = []

    def start(self, prompt: Prompt) -> Any:
        """As the drafter does."""
        self.seen = []
        return self.inner.start(prompt)

    def propose(self, states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        """As the drafter does."""
        self._policy.last = None
        trees = list(self.inner.propose(states, asks))
        if self._policy.last is not None:
            self.seen.append((asks[0].position, self._policy.last))
        return trees

    def observe(self, states: Sequence[Any], steps: Sequence[Step]) -> list[Any]:
        """As the drafter does."""
        return list(self.inner.observe(states, steps))

    def stop(self, state: Any) -> None:
        """As the drafter does."""
        self.inner.stop(state)


@dataclass(frozen=True, slots=True)
class Rows:
    """Drafted nodes. features f32[n, 3] as FEATURES; kept bool[n]; tree i64[n]: which tree each is of.

    parent  i64[n]: the place of the node's parent among those of its tree, -1 for the root.
    """

    features: NDArray[np.float32]
    kept: NDArray[np.bool_]
    tree: NDArray[np.int64]
    parent: NDArray[np.int64]

    @staticmethod
    def of(parts: Sequence[Rows]) -> Rows:
        """All of them, trees counted through."""
        before, trees = 0, []
        for part in parts:
            numbers, own = np.unique(part.tree, return_inverse=True)
            trees.append(own + before)
            before += len(numbers)
        return Rows(
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.kept for part in parts]),
            np.concatenate(trees),
            np.concatenate([part.parent for part in parts]),
        )

    def only(self, some: NDArray[Any]) -> Rows:
        """The rows at places, or where a mask says so."""
        return Rows(self.features[some], self.kept[some], self.tree[some], self.parent[some])


NO_ROWS = Rows(
    np.zeros((0, len(FEATURES)), np.float32), np.zeros(0, bool), np.zeros(0, np.int64), np.zeros(0, np.int64)
)


def rows_of(model: Model, drafter: Watched, prompt: Ids, *, depth: int, max_tokens: int) -> Rows:
    """Write greedily from a prompt, and what full trees had said all along, but for those at the end."""
    made = model.generate(Prompt(prompt), draft=drafter, max_tokens=max_tokens)
    assert not isinstance(made, list), "one text of one prompt"
    text, parts = made.token_ids, [NO_ROWS]
    for position, one in drafter.seen:
        first = position + 1 - len(prompt)  # of the text, behind the tree's root
        if one.tree.token_list[0] != [prompt[-1], *text][first]:
            raise OutpaceError(
                "the drafter has another vocabulary than the model, accepted are drafters with the same"
            )
        if first + depth <= len(text):
            parts.append(_rows(one, text[first:], len(parts)))
    return Rows.of(parts)


def _rows(one: FullTree, rest: Ids, number: int) -> Rows:
    """All nodes but the root; those are kept whose path the text goes."""
    shape, tokens = one.tree.shape, one.tree.token_list
    right = [True]
    for node, parent in enumerate(shape.parent_list[1:], 1):
        right.append(right[parent] and tokens[node] == rest[shape.depths[node] - 1])
    features = features_of(np.array(joint(one.tree)), np.array(one.entropies), np.array(shape.depths))
    parents = np.array(shape.parent_list[1:], np.int64) - 1
    return Rows(features[1:], np.array(right[1:]), np.full(len(parents), number), parents)


def write_rows(
    model: Model,
    draft: str,
    prompts: Sequence[Ids],
    folder: Path,
    *,
    k: int,
    depth: int,
    max_tokens: int,
    progress: Progress | None = None,
) -> Rows:
    """The rows of all prompts. A file in `folder` for each; those that are there already are read."""
    policy, parts = FullTrees(k=k, depth=depth), []
    drafter = Watched(model.new_drafter(draft, tree=policy), policy)
    for number, prompt in enumerate(prompts):
        path = folder / f"{number:05}.npz"
        if not path.exists():
            buffer = io.BytesIO()
            rows = rows_of(model, drafter, prompt, depth=depth, max_tokens=max_tokens)
            tree = rows.tree.astype(np.int64)
            np.savez(buffer, features=rows.features, kept=rows.kept, tree=tree, parent=rows.parent)
            write_whole(path, buffer.getbuffer())
        parts.append(_read_rows(path))
        if progress is not None:
            progress(number + 1, len(prompts), f"{sum(map(_num_trees, parts))} trees")
    return Rows.of([NO_ROWS, *parts])


def read_rows(folder: Path) -> Rows:
    """Those that `write_rows` has written to a folder."""
    return Rows.of([NO_ROWS, *map(_read_rows, sorted(folder.glob("*.npz")))])


def train_c2t(
    rows: Rows,
    folder: str | Path,
    config: C2TConfig,
    *,
    epochs: int = 20,
    lr: float = 3e-3,
    batch: int = 256,
    negatives: int = 20,
    start: str | Path | None = None,
    data: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train a classifier and write it to `folder`, with run.json. Returns how it does on trees held out.

    A folder with the same run goes on, or is done.

    negatives  nodes that were not kept, for each one that was. start: the folder of another classifier, to
               go on from. data: names the rows in run.json.

    Raises an OutpaceError for rows of which none is kept, or all are, and for a folder of another run.
    """
    judged = rows.tree % HELD_OUT == HELD_OUT - 1
    some, share = _sample(rows.only(~judged), negatives, seed)
    before = None if start is None else read_start(start, config)
    steps = epochs * -(-len(some.kept) // batch)
    plan = Plan(steps, lr, seed=seed)
    settings = {
        "method": "c2t", **asdict(config), "data": data, "start": None if start is None else str(start),
        "epochs": epochs, "batch": batch, "negatives": negatives, "lr": lr, "seed": seed,
    }  # fmt: skip
    checkpoint = Checkpoint(folder, json.loads(json.dumps(settings)))
    if "held_out" in checkpoint.run:
        checkpoint.done()  # it may have been killed before
        return judge(read_c2t(folder), rows.only(judged))
    torch.manual_seed(seed)
    net = _Net(config, before, share)
    places = [FEATURES.index(name) for name in config.features]
    features = torch.from_numpy(some.features[:, places])
    kept = torch.from_numpy(some.kept.astype(np.float32))

    def loss(step: int, random: torch.Generator) -> Loss:
        epoch, place = divmod(step, steps // epochs)
        order = np.random.default_rng((seed, epoch)).permutation(len(kept))
        picked = torch.from_numpy(order[place * batch : (place + 1) * batch])
        return Loss(binary_cross_entropy_with_logits(net(features[picked]), kept[picked]), len(picked))

    train([net], loss, plan, checkpoint, progress=progress)
    made = net.classifier(config, share)
    write_c2t(folder, made)
    held_out = judge(read_c2t(folder), rows.only(judged))
    checkpoint.note(trees=_num_trees(rows), rows=len(some.kept), held_out=held_out)
    checkpoint.done()
    return held_out


def read_start(start: str | Path, config: C2TConfig) -> Classifier:
    """The classifier in a folder, to go on from; OutpaceError for one of another shape."""
    before = read_c2t(start)
    if (before.config.features, before.config.width) != (config.features, config.width):
        raise OutpaceError(
            f"{start} has a classifier of {before.config.width} units that reads "
            f"{', '.join(before.config.features)}; accepted is one of {config.width} units and "
            f"{', '.join(config.features)}"
        )
    return before


def judge(classifier: Classifier, rows: Rows) -> dict[str, float]:
    """On all nodes of some trees: the mean log loss in nats, and of the nodes said to be likelier kept than
    not, the share of all (`positive`) and of those kept (`recall`)."""
    if not len(rows.kept):
        return {}
    said = np.clip(classifier(rows.features).astype(np.float64), 1e-9, 1 - 1e-9)
    nats = -np.where(rows.kept, np.log(said), np.log1p(-said)).mean()
    sure = said > 0.5
    facts = {
        "nats": nats,
        "positive": sure.mean(),
        "recall": (sure & rows.kept).sum() / max(1, rows.kept.sum()),
    }
    return {name: round(float(value), 6) for name, value in facts.items()}


class _Net(torch.nn.Module):
    """3 -> W -> 1, in logits."""

    def __init__(self, config: C2TConfig, start: Classifier | None, share: float) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(len(config.features), config.width)
        self.output = torch.nn.Linear(config.width, 1)
        if start is not None:
            self.load_state_dict({name: torch.from_numpy(np.array(t)) for name, t in start.tensors.items()})
            with torch.no_grad():
                self.output.bias.sub_(math.log(share))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, f] -> [n]."""
        logits: torch.Tensor = self.output(relu(self.hidden(features)))[:, 0]
        return logits

    def classifier(self, config: C2TConfig, share: float) -> Classifier:
        """Moved by the share of the nodes not kept that it has seen."""
        tensors = {name: t.detach().numpy().copy() for name, t in self.state_dict().items()}
        tensors["output.bias"] += math.log(share)
        return Classifier(config, tensors)


def _sample(rows: Rows, negatives: int, seed: int) -> tuple[Rows, float]:
    """All that were kept, so many of the others for each, and which share of these others that is."""
    kept, others = np.flatnonzero(rows.kept), np.flatnonzero(~rows.kept)
    if not len(kept) or not len(others):
        raise OutpaceError(
            f"of {len(rows.kept)} drafted nodes {len(kept)} are kept, accepted are nodes of both kinds: more "
            "prompts or longer texts"
        )
    count = min(len(others), negatives * len(kept))
    picked = np.random.default_rng(seed).choice(others, count, replace=False)
    return rows.only(np.sort(np.concatenate([kept, picked]))), count / len(others)


def _num_trees(rows: Rows) -> int:
    return len(np.unique(rows.tree))


def _read_rows(path: Path) -> Rows:
    try:
        with np.load(path, allow_pickle=False) as found:
            return Rows(found["features"], found["kept"], found["tree"], found["parent"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise OutpaceError(f"{path} cannot be read ({error}); remove it to have it made again") from None
