"""The native sampler at the ends of what options and logits can be: the choice of its numpy twin, or none."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.edits import Edit, edited
from outpace.core.errors import OutpaceError
from outpace.core.sampling import NO_CHOICE, Sampling, choose
from outpace.core.tree import TokenTree
from outpace.targets.native import NativeTarget
from tests.edits import random_edit
from tests.fake_models import VOCAB_SIZE
from tests.native_matrices import aligned
from tests.native_models import INSTRUCTION_SETS, gguf_target, instruction_set
from tests.rows import on, opened
from tests.strategies import extreme_logits, extreme_samplings

TOKEN = 37
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0, seed=1),
    Sampling(temperature=1e-9, seed=1),
    Sampling(temperature=0.8, top_k=5, top_p=0.9, min_p=0.01, seed=2),
]


@pytest.fixture(params=INSTRUCTION_SETS, scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeTarget:
    with instruction_set(request.param):
        return gguf_target(tmp_path_factory.mktemp("model"), "llama", "Q8_0", threads=2)


@settings(max_examples=150)
@given(extreme_logits(VOCAB_SIZE // 30), extreme_samplings(), st.integers(0, 1000), st.data())
def test_equals_the_numpy_twin(
    target: NativeTarget, row: np.ndarray, sampling: Sampling, position: int, data: st.DataObject
) -> None:
    ids = np.array(data.draw(st.permutations(range(VOCAB_SIZE)))[: len(row)])
    others = data.draw(st.sampled_from([0.0, -np.inf, -100.0]))
    added = np.full(VOCAB_SIZE, others, np.float32)
    added[ids] = row
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    other = random_edit(rng, VOCAB_SIZE)
    kept = other.allowed if data.draw(st.booleans()) else None
    if kept is not None and not np.unpackbits(kept, bitorder="little")[ids[row > -np.inf]].any():
        kept = None  # there has to be a choice
    edit = Edit(np.arange(VOCAB_SIZE), added, repeated=other.repeated, penalty=other.penalty, allowed=kept)
    rows, scores = opened(target, [[1, 2, 3]])
    logits = edited(scores.logits(0, [0])[0], edit)
    assert scores.choose([sampling], [position], [[edit]])[0] == choose(
        logits[None], sampling, [position + 1]
    )
    plain = scores.logits(0, [0])
    assert scores.choose([sampling], [position])[0] == choose(plain, sampling, [position + 1])
    target.free(rows)


def test_options_that_are_none_are_refused(target: NativeTarget) -> None:
    rows, _ = opened(target, [[1, 2, 3]])
    decoder = target._decoder
    good = {"temperature": 1.0, "top_k": 3, "top_p": 0.9, "min_p": 0.1}
    wrong: dict[str, list[float]] = {
        "temperature": [-1.0, -1e-300, math.nan, math.inf],
        "top_k": [-1, -(2**31)],
        "top_p": [0.0, -0.5, -5e-324, 1.5, math.nan, math.inf],
        "min_p": [-0.1, 1.0000001, math.nan, math.inf],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match="accepted are a finite temperature"):
                row: Any = (0, 1, 0, *(good | {name: value}).values(), 0)
                decoder.choose([row])
    for top_p, min_p in ((1e-46, 0.0), (5e-324, 1.0), (1.0, 1.0), (1.0, 5e-324)):
        [[token]] = decoder.choose([(0, 1, 0, 1e-46, 0, top_p, min_p, 0)])
        assert 0 <= token < VOCAB_SIZE
    target.free(rows)


def trusted(ids: Sequence[int], value: float) -> Edit:
    """An edit that nobody has checked: what is no number goes on to the kernels."""
    nothing = np.zeros(0, np.int32)
    return Edit.of_fields(np.array(ids, np.int32), np.full(len(ids), value, np.float32), nothing, 1.0, None)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_edits_that_leave_no_choice(target: NativeTarget, value: float, sampling: Sampling) -> None:
    rows, _ = opened(target, [[1, 2, 3]])
    every, one = (trusted(ids, value) for ids in (range(VOCAB_SIZE), [TOKEN]))
    scores = target.score(on(rows, [TokenTree([4, 5, 6], [-1, 0, 0])]))
    plain = scores.choose([sampling], [3])[0]
    # Of a node that is not the root it is the caller's to ask whether it is ever reached.
    assert scores.choose([sampling], [3], [[None, every, None]])[0] == [plain[0], NO_CHOICE, plain[2]]
    with pytest.raises(OutpaceError, match="no token to choose"):
        scores.choose([sampling], [3], [[every, None, None]])
    expected = NO_CHOICE if np.isnan(value) else plain[1]
    assert plain[1] != TOKEN
    assert scores.choose([sampling], [3], [[None, one, None]])[0][1] == expected
    target.free(rows)


def damaged(target: NativeTarget, tokens: list[int], value: float) -> NativeTarget:
    """Another target, of which these rows of the output matrix begin with this value."""
    weights = copy.copy(target.weights)
    data = aligned(np.array(weights.buffer))
    place = weights.tensors.get("output") or weights.tensors["embed"]
    matrix = data[place.offset : place.offset + place.nbytes].view("<f4").reshape(-1, place.tile_bytes // 4)
    for token in tokens:
        matrix[token // 16, token % 16] = value  # tiles of 16 rows, input by input
    weights.buffer = data  # type: ignore[assignment]
    return NativeTarget(target.config, weights, threads=target.threads)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_scores_that_are_no_numbers_are_said(isa: str, threads: int, tmp_path: Path) -> None:
    with instruction_set(isa):
        sound = gguf_target(tmp_path, "llama3", "F32", threads=threads)  # with an output matrix of its own
        _, scores = opened(sound, [[1, 2, 3]])
        first = scores.hidden("final")[0, 0]
        forbid = Edit([TOKEN], [-np.inf])
        for tokens in ([TOKEN], [0], [VOCAB_SIZE - 1], list(range(VOCAB_SIZE))):
            for value in (np.nan, math.copysign(np.inf, first)):
                _, broken = opened(damaged(sound, tokens, value), [[1, 2, 3]])
                for sampling in SAMPLINGS:
                    for edits in (None, [[forbid]]):
                        with pytest.raises(OutpaceError, match="no token to choose"):
                            broken.choose([sampling], [2], edits)
        # One that is infinitely small is never chosen, and no reason to stop.
        _, fine = opened(damaged(sound, [TOKEN], math.copysign(np.inf, -first)), [[1, 2, 3]])
        for sampling in SAMPLINGS:
            assert fine.choose([sampling], [2]) == scores.choose([sampling], [2], [[forbid]])
