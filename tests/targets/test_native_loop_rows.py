"""What a row with nodes in flight accepts, keeps and forgets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from outpace.core.call import Call, Pass
from outpace.core.errors import CacheFull, OutpaceError
from outpace.core.tree import TokenTree
from outpace.targets.native import NativeTarget
from tests.native_loops import (
    MODELS,
    PROMPTS,
    Reference,
    first_pass,
    next_pass,
    with_reference,
)
from tests.native_models import gguf_target
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


def test_what_forgets(target: NativeTarget) -> None:
    (row, other), _ = opened(target, PROMPTS[:2])

    def is_known() -> bool:
        try:
            target.advance([next_pass(row, 1)])
        except OutpaceError:
            return False
        target.advance([first_pass(row)])
        return True

    target.advance([first_pass(row)])
    assert is_known()
    target.advance([first_pass(other)])
    target.score([Call.on(other, TokenTree.root(1))])
    twin = target.fork(row)
    assert is_known()  # other rows are no matter
    for use in (
        lambda: target.score([Call.on(row, TokenTree.root(5))]),
        lambda: target.run([Call.on(row, TokenTree.root(5))], layers=1),
    ):
        target.advance([first_pass(row)])
        use()
        assert not is_known()
    target.advance([first_pass(twin)])
    target.free([twin])
    assert target.open() == twin
    with pytest.raises(OutpaceError, match="does not come from the row's last pass"):
        target.advance([next_pass(twin, 1)])
    target.advance([first_pass(row)])
    child = target.fork(row)
    with pytest.raises(OutpaceError, match="does not come from the row's last pass"):
        target.advance([next_pass(child, 1)])
    target.free([row, other, twin, child])


def test_a_pass_forgets_a_part(target: NativeTarget) -> None:
    """Its nodes are in the slots of those that have run through a part."""
    rows, _ = opened(target, PROMPTS[:1])
    tree = TokenTree.chain(5, [6, 7])
    longer = TokenTree.chain(5, [6, 7, 8])
    expected = target.score(on(rows, [longer])).logits(0, range(4))
    target.run(on(rows, [tree]), layers=1)
    target.advance([first_pass(rows[0], [9, 10, 11])])
    np.testing.assert_array_equal(target.score(on(rows, [longer])).logits(0, range(4)), expected)
    target.free(rows)


@pytest.mark.parametrize(
    ("parents", "tokens", "loops", "came", "message"),
    [
        ([-1, 0, 1], [5, 6, 7], [9, 0, 0], [0, -1, -1], "is in loop 9, accepted are 0 to"),
        ([-1, 0, 1], [5, 6, 7], [1, 1, -1], [0, 1, -1], "is in loop -1"),
        ([-1, 0, 1], [5, 6, 7], [0, 1, 1], [-1, 1, 2], "has run more loops than one before it"),
        ([-1, 0, 1], [5, 6, 7], [1, 1, 1], [0, 1, -1], "is new and has to begin with loop 0"),
        ([-1, 0, 1], [5, 6, 7], [1, 1, 0], [0, 1, 2], "has to go on with loop 1"),
        ([-1, 0, 1], [5, 6, 7], [0, 0, 0], [0, 1, 2], "has to go on with loop 1"),
        ([-1, 0, 1], [5, 6, 7], [1, 1, 1], [0, 1, 3], "does not come from the row's last pass"),
        ([-1, 0, 1], [5, 6, 7], [1, 1, 1], [0, 1, 1], "does not come from the row's last pass"),
        ([-1, 0, 1], [5, 6, 7], [1, 1, 1], [0, 1, -2], "does not come from the row's last pass"),
        ([-1, 0, 1], [5, 6, 7], [1, 1, 1], [0, 1, 2**31 - 1], "does not come from the row's last pass"),
        ([-1, 0, 1], [5, 6, 8], [1, 1, 1], [0, 1, 2], "was another one in the row's last pass"),
        ([-1, 0, 0], [5, 6, 7], [1, 1, 1], [0, 1, 2], "was another one in the row's last pass"),
        ([-1, 0, 1], [6, 7, 8], [1, 1, 0], [1, 2, -1], "was another one in the row's last pass"),
        ([-1, 0], [5, 5], [0, 1], [-1, 0], "has run more loops than one before it"),
        ([-1], [5], [1], [1], "was another one in the row's last pass"),
    ],
    ids=str,
)
def test_wrong_passes_are_refused_and_change_nothing(
    target: NativeTarget,
    reference: Reference,
    parents: list[int],
    tokens: list[int],
    loops: list[int],
    came: list[int],
    message: str,
) -> None:
    (row, other), _ = opened(target, PROMPTS[:2])
    target.advance([first_pass(row)])
    decoder = target._decoder
    with pytest.raises(ValueError, match=message):
        decoder.advance([row], [0, len(tokens)], tokens, parents, loops, came)
    with pytest.raises(ValueError, match=message):  # behind a row that is right
        decoder.advance(
            [other, row], [0, 1, 1 + len(tokens)], [1, *tokens], [-1, *parents], [0, *loops], [-1, *came]
        )
    with pytest.raises(ValueError, match="no node 0"):
        decoder.logits([0])
    for loop in range(1, target.num_loops):
        scores = target.advance([next_pass(row, loop)])
    expected = reference.logits([*PROMPTS[0], 5], target.num_loops)
    np.testing.assert_array_equal(scores.logits(0, [0])[0], expected)
    target.free([row, other])


def test_nodes_of_another_row_are_refused(target: NativeTarget) -> None:
    (row, other), _ = opened(target, PROMPTS[:2])
    target.advance([first_pass(row)])
    with pytest.raises(OutpaceError, match=f"node 0 of row {other} does not come from the row's last pass"):
        target.advance([next_pass(other, 1)])
    with pytest.raises(OutpaceError, match=f"node 0 of row {other} does not come from the row's last pass"):
        target.advance([next_pass(row, 1), next_pass(other, 1)])
    with pytest.raises(OutpaceError, match="stands twice"):
        target.advance([next_pass(row, 1), next_pass(row, 1)])
    with pytest.raises(OutpaceError, match="no row 77"):
        target.advance([first_pass(77)])
    for flat in (([0], []), ([], [0]), ([0, 0], [-1])):
        with pytest.raises(ValueError, match="loops and came do not fit"):
            target._decoder.advance([row], [0, 1], [5], [-1], *flat)
    with pytest.raises(ValueError, match="do not fit together"):
        target._decoder.advance([row], [0, 2], [5], [-1], [0], [-1])
    target.advance([next_pass(row, 1)])
    target.free([row, other])


def test_states_are_put_in_the_place_of_known_nodes(target: NativeTarget) -> None:
    (row,), _ = opened(target, PROMPTS[:1])
    scores = target.advance([first_pass(row)])
    before, first = scores.logits(0, [0]), scores.top(0, [0], 3)
    states = scores.hidden("final")
    decoder = target._decoder
    with pytest.raises(ValueError, match="no node 3 in the last call"):
        decoder.set_hidden([0, 3], np.repeat(states, 2, axis=0))
    for wrong in (states[:, :-1], np.repeat(states, 2, axis=0)):
        with pytest.raises(ValueError, match=r"states have to be \[nodes, hidden_size\]"):
            decoder.set_hidden([0], np.ascontiguousarray(wrong))
    np.testing.assert_array_equal(scores.logits(0, [0]), before)
    decoder.set_hidden([0], -states)
    np.testing.assert_array_equal(scores.hidden("final"), -states)
    after = scores.logits(0, [0])
    assert not np.array_equal(after, before)
    ids, values = scores.top(0, [0], 3)  # what was found before is of no use any more
    np.testing.assert_array_equal(values, after[0][ids[0]][None])
    assert after[0].argmax() == ids[0, 0] != first[0][0, 0]
    with pytest.raises(AssertionError, match="the model's own"):
        target.advance([next_pass(row, 1)], {target.num_loops: np.negative})
    target.free([row])


def test_only_what_is_through_can_be_kept(target: NativeTarget, reference: Reference) -> None:
    (row, other), _ = opened(target, PROMPTS[:2])
    for loop in range(target.num_loops):
        with pytest.raises(ValueError, match="no scored tree"):
            target.keep([row], [()])
        # The root, one that starts with it, one that starts a loop later.
        tree = TokenTree.chain(5, [6, 7][: 2 if loop else 1])
        came = [0, 1, 2 if loop > 1 else -1] if loop else [-1, -1]
        target.advance([Pass(row, tree, [loop, loop, loop - 1][: len(came)], came, [0])])
    for path, message in (
        ([1, 2], "node 2 cannot be kept"),
        ([2], "child by child"),
        ([3], "child by child"),
    ):
        with pytest.raises(ValueError, match=message):
            target.keep([row], [path])
    with pytest.raises(ValueError, match="no scored tree"):
        target.keep([other], [()])
    assert target.length(row) == len(PROMPTS[0])
    target.keep([row], [()])
    with pytest.raises(ValueError, match="no scored tree"):
        target.keep([row], [()])
    with pytest.raises(OutpaceError, match="is in loop"):  # node 1 is through, and was not kept
        target.advance([Pass(row, TokenTree.root(6), [target.num_loops], [1])])
    with pytest.raises(OutpaceError, match="was another one"):  # node 2 hangs on it
        target.advance([Pass(row, TokenTree.root(7), [target.num_loops - 1], [2])])
    scores = target.advance([first_pass(row, [9])])
    np.testing.assert_array_equal(scores.logits(0, [0])[0], reference.logits([*PROMPTS[0], 5, 9], 1))
    target.free([row, other])


def test_a_full_cache_changes_nothing(tmp_path: Path) -> None:
    target, reference = with_reference(tmp_path, MODELS[1], context_length=64, cache_tokens=64)
    (row, other), _ = opened(target, [PROMPTS[2], [1]])
    target.advance([first_pass(row)])
    tree = TokenTree.chain(3, [1] * 40)
    crowd = Pass(other, tree, [0] * 41, [-1] * 41)
    with pytest.raises(CacheFull):
        target.advance([next_pass(row, 1), crowd])
    with pytest.raises(ValueError, match="no scored tree"):
        target.keep([row], [()])
    target.advance([next_pass(row, 1)])
    scores = target.advance([next_pass(row, 2)])
    expected = reference.logits([*PROMPTS[2], 5], 3)
    np.testing.assert_array_equal(scores.logits(0, [0])[0], expected)
    target.keep([row], [[1, 2]])
    with pytest.raises(OutpaceError, match="outside the context of 64"):
        target.advance([first_pass(row, [1] * 32)])


@pytest.mark.parametrize("order", [(), (0, 0, 1, 1), (1, 0, 1, 0), (0, 1, 1, 0)])
def test_models_without_loops_refuse_a_pass(order: tuple[int, ...], tmp_path: Path) -> None:
    once = gguf_target(tmp_path, "llama", "Q8_0", num_hidden_layers=4)
    target = NativeTarget(replace(once.config, layer_order=order), once.weights, threads=1)
    rows, _ = opened(target, PROMPTS[:1])
    assert target.num_loops == 1
    with pytest.raises(OutpaceError, match="needs a model whose layers run several times"):
        target.advance([first_pass(rows[0])])
