"""Passes of a looped torch model: nodes of any age have the logits of plain arithmetic on their text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import outpace  # noqa: E402
from outpace.core.call import Pass  # noqa: E402
from outpace.core.contracts import Looped  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.hf_looped import HfLoopedTarget, causal_target  # noqa: E402
from outpace.targets.hf_looped_model import LoopedForCausalLM, OuroForCausalLM  # noqa: E402
from tests.fake_models import EOS_ID, VOCAB_SIZE  # noqa: E402
from tests.hf_families import tiny_looped, tiny_model  # noqa: E402
from tests.looped_models import loop_logits, write_looped  # noqa: E402
from tests.rows import on, opened  # noqa: E402

PROMPTS = [[5, 17, 3, 250, 9, 9, 81], [2], [90, 91, 92, 93]]
NAMES = ["looped", "looped_norms", "looped_sandwich", "ouro"]


@pytest.fixture(params=NAMES, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / request.param
    write_looped(folder, request.param)
    return folder


def model_of(folder: Path) -> Any:
    kind = OuroForCausalLM if folder.name == "ouro" else LoopedForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


@cache
def expected(folder: Path, text: tuple[int, ...]) -> Any:
    """f64[R, V] after the last token."""
    return loop_logits(folder, list(text))[:, -1].numpy()


@dataclass(eq=False)
class Node:
    token: int
    parent: Node | None
    loop: int = 0
    came: int = -1

    def path(self) -> list[int]:
        return [*(self.parent.path() if self.parent else []), self.token]


@dataclass
class Row:
    number: int
    text: list[int]
    nodes: list[Node] = field(default_factory=list)

    def change(self, rng: np.random.Generator) -> None:
        """Branches go and others enter."""
        if not self.nodes:
            self.nodes = [Node(int(rng.integers(VOCAB_SIZE)), None)]
        kept: list[Node] = []
        for node in self.nodes:
            if node.parent is None or (node.parent in kept and rng.random() < 0.85):
                kept.append(node)
        for _ in range(int(rng.integers(0, 3))):
            kept.append(Node(int(rng.integers(VOCAB_SIZE)), kept[int(rng.integers(len(kept)))]))
        self.nodes = kept

    def to_pass(self) -> Pass:
        number = {id(node): i for i, node in enumerate(self.nodes)}
        parents = [-1 if node.parent is None else number[id(node.parent)] for node in self.nodes]
        tree = TokenTree([node.token for node in self.nodes], parents)
        loops, came = [node.loop for node in self.nodes], [node.came for node in self.nodes]
        return Pass(self.number, tree, loops, came, range(len(self.nodes)))

    def commit(self, target: HfLoopedTarget, rng: np.random.Generator) -> None:
        """What is through, along one path; the row goes on below it, or anew."""
        for came, node in enumerate(self.nodes):
            node.loop, node.came = node.loop + 1, came
        last = target.num_loops
        if self.nodes[0].loop < last:
            return
        path = [self.nodes[0]]
        while through := [n for n in self.nodes if n.parent is path[-1] and n.loop == last]:
            path.append(through[int(rng.integers(len(through)))])
        target.keep([self.number], [[node.came for node in path[1:]]])
        self.text += [node.token for node in path]
        roots = [node for node in self.nodes if node.parent is path[-1]]
        kept = [roots[int(rng.integers(len(roots)))]] if roots and rng.random() < 0.8 else []
        if kept:
            kept[0].parent = None
            for node in self.nodes:
                if node.parent in kept:
                    kept.append(node)
        self.nodes = kept


@pytest.mark.parametrize("kernels", ["torch", "block"])
def test_staggered_passes(folder: Path, kernels: str) -> None:
    target = causal_target(model_of(folder), kernels=kernels)
    assert isinstance(target, HfLoopedTarget) and isinstance(target, Looped)
    bound = 2e-3 if kernels == "block" else 2e-4
    rng = np.random.default_rng(7)
    numbers, _ = opened(target, PROMPTS)
    rows = [Row(number, list(prompt)) for number, prompt in zip(numbers, PROMPTS, strict=True)]
    rows.append(Row(target.open(), []))
    for turn in range(16):
        some = [row for row in rows if rng.random() < 0.8] or rows
        for row in some:
            row.change(rng)
        factors = {1: 2.0, target.num_loops - 1: 0.5} if turn % 2 else {}
        heads = {loop: partial(np.multiply, factor) for loop, factor in factors.items()}
        scores = target.advance([row.to_pass() for row in some], heads)
        at = 0
        for row in some:
            for node in row.nodes:
                theirs = expected(folder, (*row.text, *node.path()))[node.loop]
                theirs = theirs * factors.get(node.loop + 1, 1.0)
                assert np.abs(scores.logits(at, [0])[0] - theirs).max() < 2 * bound
                at += 1
        for row in some:
            row.commit(target, rng)
            assert target.length(row.number) == len(row.text)
        if turn == 7:  # an older row goes, and others, in flight, take its place
            target.score(on([rows[1].number], [TokenTree.root(4)]))
            rows[1].nodes = []
            target.free([rows.pop(0).number])
    tree = TokenTree([11, 20, 21, 22], [-1, 0, 0, 1])
    scores = target.score(on([row.number for row in rows], [tree] * len(rows)))
    for place, row in enumerate(rows):
        theirs = expected(folder, (*row.text, 11, 20, 22))[-1]
        assert np.abs(scores.logits(place, [3])[0] - theirs).max() < bound


def test_only_what_is_wanted_has_scores(folder: Path) -> None:
    target = HfLoopedTarget(model_of(folder))
    rows, _ = opened(target, PROMPTS[:2])
    chain = TokenTree.chain(5, [6, 7])
    one = Pass(rows[0], chain, [0] * 3, [-1] * 3, [2, 0])
    scores = target.advance([one, Pass(rows[1], chain, [0] * 3, [-1] * 3)])
    for place, text in enumerate(([5, 6, 7], [5])):
        theirs = expected(folder, (*PROMPTS[0], *text))[0]
        assert np.abs(scores.logits(place, [0])[0] - theirs).max() < 2e-4
    assert target.advance([Pass(rows[1], chain, [1] * 3, range(3))])


@pytest.mark.parametrize(
    ("loops", "came"),
    [([0], [0]), ([2], [0]), ([1], [-1]), ([1], [3]), ([1, 1], [0, -1]), ([1, 0], [0, 1])],
)
def test_nodes_that_do_not_go_on_are_refused(loops: list[int], came: list[int]) -> None:
    target = HfLoopedTarget(tiny_looped())
    row = target.open()
    target.advance([Pass(row, TokenTree.chain(5, [6]), [0, 0], [-1, -1])])
    tree = TokenTree.chain(5, [6] * (len(loops) - 1))
    with pytest.raises(OutpaceError, match=r"a node runs loop .*accepted are the loop after that node's"):
        target.advance([Pass(row, tree, loops, came)])


def test_other_refusals() -> None:
    target = HfLoopedTarget(tiny_looped(), context_length=4)
    row, root = target.open(), TokenTree.root(5)
    target.advance([Pass(row, root, [0], [-1])])
    with pytest.raises(OutpaceError, match="kept after a pass are the root and nodes that have run all"):
        target.keep([row], [()])
    target.score(on([row], [root]))  # which forgets what is in flight
    with pytest.raises(OutpaceError, match="a node runs loop 1"):
        target.advance([Pass(row, root, [1], [0])])
    with pytest.raises(OutpaceError, match="token ids are not all from 0 to 299"):
        target.advance([Pass(row, TokenTree.root(300), [0], [-1])])
    with pytest.raises(OutpaceError, match="the context holds 4"):
        target.advance([Pass(row, TokenTree.chain(5, [1] * 4), [0] * 5, [-1] * 5)])


def test_other_models_have_the_usual_target() -> None:
    assert type(causal_target(tiny_model("llama"))) is HfCausalTarget


@pytest.mark.parametrize("draft", ["none", "ngram", "speed:early=1", "speed:early=1,draft=ngram"])
def test_accelerate_gives_the_likeliest_tokens(folder: Path, draft: str) -> None:
    fast = outpace.accelerate(model_of(folder), draft=draft)
    assert isinstance(fast.target, HfLoopedTarget)
    prompts = torch.tensor([[5, 17, 3, 5, 17, 3], [9, 8, 7, 6, 5, 4]])
    made = fast.generate(prompts, max_new_tokens=10, do_sample=False)
    for row, begin in zip(made.tolist(), prompts.tolist(), strict=True):
        text = list(begin)
        for token in row[len(begin) :]:
            if text[-1] == EOS_ID:
                break
            assert token == expected(folder, tuple(text))[-1].argmax()
            text.append(token)
