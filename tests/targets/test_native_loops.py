"""Passes of one loop: nodes of any age have the bits of whole calls, and so have the keys that they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from outpace.core.call import Pass
from outpace.core.contracts import Looped
from outpace.core.edits import Edit
from outpace.core.sampling import NO_CHOICE, Sampling
from outpace.core.tree import TokenTree
from outpace.targets.native import NativeTarget
from tests.fake_models import VOCAB_SIZE
from tests.native_loops import (
    MODELS,
    PROMPTS,
    Model,
    Reference,
    with_reference,
)
from tests.native_models import INSTRUCTION_SETS, instruction_set
from tests.rows import on, opened


@pytest.fixture(params=MODELS, ids=str, scope="module")
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[NativeTarget, Reference]:
    return with_reference(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture
def target(both: tuple[NativeTarget, Reference]) -> NativeTarget:
    return both[0]


@pytest.fixture
def reference(both: tuple[NativeTarget, Reference]) -> Reference:
    return both[1]


@dataclass(eq=False)
class Node:
    token: int
    parent: Node | None
    loop: int = 0  # that it runs next
    came: int = -1

    def text(self) -> list[int]:
        return [*(self.parent.text() if self.parent else []), self.token]


@dataclass
class Row:
    """A row with nodes in flight, older ones first."""

    number: int
    text: list[int]
    nodes: list[Node] = field(default_factory=list)

    def below(self, node: Node | None) -> list[Node]:
        return [other for other in self.nodes if other.parent is node]

    def grow(self, rng: np.random.Generator) -> None:
        """Some leaves and branches go, some nodes enter, more than one below each other at times."""
        if not self.nodes:
            self.nodes.append(Node(int(rng.integers(VOCAB_SIZE)), None))
        kept: list[Node] = []
        for node in self.nodes:
            if node.parent is None or (node.parent in kept and rng.random() < 0.9):
                kept.append(node)
        self.nodes = kept
        for _ in range(int(rng.integers(0, 4))):
            if len(self.nodes) < 9:
                # The youngest at times, so that chains come about, and any other for siblings.
                at = -1 if rng.random() < 0.6 else int(rng.integers(len(self.nodes)))
                self.nodes.append(Node(int(rng.integers(VOCAB_SIZE)), self.nodes[at]))

    def to_pass(self) -> Pass:
        number = {id(node): i for i, node in enumerate(self.nodes)}
        parents = [-1 if node.parent is None else number[id(node.parent)] for node in self.nodes]
        tree = TokenTree([node.token for node in self.nodes], parents)
        loops, came = [n.loop for n in self.nodes], [n.came for n in self.nodes]
        return Pass(self.number, tree, loops, came, range(len(self.nodes)))

    def ran(self) -> None:
        for i, node in enumerate(self.nodes):
            node.loop, node.came = node.loop + 1, i

    def commit(self, target: NativeTarget, rng: np.random.Generator) -> None:
        """The root, if it is through, and a path; the row goes on with a branch below it or anew."""
        if self.nodes[0].loop < target.num_loops:
            return
        path = [self.nodes[0]]
        while through := [node for node in self.below(path[-1]) if node.loop == target.num_loops]:
            if rng.random() < 0.3:
                break
            path.append(through[int(rng.integers(len(through)))])
        target.keep([self.number], [[node.came for node in path[1:]]])
        self.text += [node.token for node in path]
        going = [node for node in self.below(path[-1]) if node.loop < target.num_loops]
        kept: list[Node] = []
        if going and rng.random() < 0.8:
            root = going[int(rng.integers(len(going)))]
            root.parent = None
            for node in self.nodes:
                if node is root or node.parent in kept:
                    kept.append(node)
        self.nodes = kept


def advance_and_compare(target: NativeTarget, rows: Sequence[Row], reference: Reference) -> None:
    """Some passes have heads, which scale the states after two of the loops."""
    factors = {1: 2.0, target.num_loops - 1: 0.5} if len(rows[0].nodes) % 2 else {}
    heads = {loop: partial(np.multiply, np.float32(factor)) for loop, factor in factors.items()}
    scores = target.advance([row.to_pass() for row in rows], heads)
    at = 0
    for row in rows:
        for node in row.nodes:
            expected = reference.logits([*row.text, *node.text()], node.loop + 1)
            expected = expected * np.float32(factors.get(node.loop + 1, 1))
            np.testing.assert_array_equal(scores.logits(at, [0])[0], expected)
            at += 1


def fly(target: NativeTarget, reference: Reference, seed: int, passes: int) -> None:
    """Several rows, not all of them in every pass, then what their caches hold."""
    rng = np.random.default_rng(seed)
    numbers, _ = opened(target, PROMPTS)
    rows = [Row(number, list(prompt)) for number, prompt in zip(numbers, PROMPTS, strict=True)]
    for _ in range(passes):
        some = [row for row in rows if rng.random() < 0.8] or rows[:1]
        for row in some:
            row.grow(rng)
        advance_and_compare(target, some, reference)
        for row in some:
            row.ran()
            row.commit(target, rng)
    assert sum(len(row.text) for row in rows) > sum(map(len, PROMPTS)) + passes // 4
    probe = TokenTree([1, 2, 3, 4], [-1, 0, 0, 2])
    scores = target.score(on(numbers, [probe] * len(rows)))
    for i, row in enumerate(rows):
        assert target.length(row.number) == len(row.text)
        np.testing.assert_array_equal(scores.logits(i, range(4)), reference.tree(row.text, probe))
    target.free(numbers)


@pytest.mark.parametrize("seed", range(4))
def test_nodes_of_any_age_have_the_bits_of_whole_calls(
    target: NativeTarget, reference: Reference, seed: int
) -> None:
    assert isinstance(target, Looped) and target.num_loops > 1
    fly(target, reference, seed, 60)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("model", MODELS[:3], ids=lambda m: m[0])
def test_on_every_instruction_set(model: Model, isa: str, tmp_path: Path) -> None:
    with instruction_set(isa):
        fly(*with_reference(tmp_path, model), 9, 20)


def test_a_pipeline_of_a_chain(target: NativeTarget, reference: Reference) -> None:
    """Every token starts one loop after the one before it; one is committed in each pass."""
    tokens = [int(t) for t in np.random.default_rng(3).integers(0, VOCAB_SIZE, 40)]
    loops = target.num_loops
    numbers, _ = opened(target, PROMPTS[:1])
    text = list(PROMPTS[0])
    for step in range(len(tokens)):
        first = max(0, step - loops + 1)
        ages = list(range(step - first, -1, -1))
        came = [-1] if step == 0 else [*(i + (step >= loops) for i in range(len(ages) - 1)), -1]
        tree = TokenTree.chain(tokens[first], tokens[first + 1 : step + 1])
        scores = target.advance([Pass(numbers[0], tree, ages, came, [0])])
        expected = reference.logits([*text, tokens[first]], ages[0] + 1)
        np.testing.assert_array_equal(scores.logits(0, [0])[0], expected)
        assert target._decoder.work == 2 * target.num_layers // loops * len(ages)
        if ages[0] == loops - 1:
            target.keep(numbers, [[]])
            text.append(tokens[first])
    assert len(text) == len(PROMPTS[0]) + len(tokens) - loops + 1
    probe = TokenTree.chain(3, [1, 4])
    found = target.score(on(numbers, [probe])).logits(0, range(3))
    np.testing.assert_array_equal(found, reference.tree(text, probe))
    target.free(numbers)


def test_scores_of_a_pass(target: NativeTarget) -> None:
    """Choices, likeliest tokens and states are those of the wanted nodes, in their order."""
    rows, _ = opened(target, PROMPTS[:2])
    trees = [TokenTree([5, 6, 7], [-1, 0, 0]), TokenTree.root(8)]
    wanted = [[2, 0], [0]]
    for loop in range(target.num_loops):
        passes = [
            Pass(
                row,
                tree,
                [loop] * tree.num_nodes,
                range(tree.num_nodes) if loop else [-1] * tree.num_nodes,
                some,
            )
            for row, tree, some in zip(rows, trees, wanted, strict=True)
        ]
        found = target.advance(passes)
    sampling = Sampling(temperature=0.9, seed=4)
    depths = [1, 0, 0]
    lengths = [len(PROMPTS[0])] * 2 + [len(PROMPTS[1])]
    positions = [length + depth for length, depth in zip(lengths, depths, strict=True)]
    choices = found.choose([sampling] * 3, positions, top=3)
    tops, states = [found.top(i, [0], 3) for i in range(3)], found.hidden("final")
    nothing = Edit(allowed=np.zeros(target.vocab_size, bool))
    assert found.choose([sampling] * 3, positions, [[nothing], None, None]) == [[NO_CHOICE], *choices[1:]]
    whole = target.score(on(rows, trees))
    expected = whole.choose([sampling] * 2, [len(prompt) for prompt in PROMPTS[:2]])
    assert choices == [[expected[0][2]], [expected[0][0]], [expected[1][0]]]
    np.testing.assert_array_equal(states, whole.hidden("final")[[2, 0, 3]])
    for (ids, values), (row, node) in zip(tops, [(0, 2), (0, 0), (1, 0)], strict=True):
        theirs = whole.top(row, [node], 3)
        assert ids.tolist() == theirs[0].tolist() and values.tolist() == theirs[1].tolist()
    target.free(rows)
