"""speed with an early head: plain decoding's tokens whatever the head says, and heads that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.edits import Edit  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.drafters import DRAFTERS  # noqa: E402
from outpace.drafters.model.speed import Speed, speed  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.engine import Engine  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads.early import EarlyHead, EarlyWeights, write_early  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.hf_looped import HfLoopedTarget  # noqa: E402
from tests.hf_families import tiny_looped, tiny_model  # noqa: E402
from tests.looped_table import LoopedTable  # noqa: E402
from tests.made_heads import early_config, write_random_early, write_stubborn  # noqa: E402
from tests.native_loops import looped_model  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

SAMPLINGS = [Sampling(), Sampling(temperature=1.0, seed=4), Sampling(temperature=0.7, top_k=20, seed=5)]
PROMPTS = [[5, 17, 3, 250, 9, 9, 81], [2], [90, 91, 92, 93], [7, 7], [1, 2, 3] * 8]
LENGTH = 20


def hf_bf16(folder: Path) -> Any:
    return HfLoopedTarget(tiny_looped().to(torch.bfloat16), context_length=64)


TARGETS: dict[str, Callable[[Path], Any]] = {
    "native, 8 bit": lambda folder: looped_model(folder, ("llama", "Q4_1", 2, 4, False, "f16")),
    "native, floats": lambda folder: looped_model(folder, ("qwen3", "F32", 1, 3, True, "f32")),
    "torch": lambda folder: HfLoopedTarget(tiny_looped(), context_length=64),
}


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return TARGETS[request.param](tmp_path_factory.mktemp("target"))


def drafter(target: Any, **options: Any) -> Speed:
    made = speed(target=target, context={"target": target}, **options)
    assert isinstance(made, Speed)
    return made


def run(target: Any, drafter: Any, requests: list[Request]) -> list[Generation]:
    """All of them at once."""
    engine = Engine(target, drafter, Match())
    jobs = [engine.add(request) for request in requests]
    while engine.busy:
        engine.step()
    results = [job.result for job in jobs if job.result is not None]
    assert len(results) == len(jobs)
    return results


def requests_of(batch: int, sampling: Sampling) -> list[Request]:
    return [Request(tuple(prompt), sampling, LENGTH) for prompt in PROMPTS[:batch]]


@cache
def plain(target: Any, sampling: Sampling) -> list[list[int]]:
    return [run(target, NoDraft(), [request])[0].token_ids for request in requests_of(len(PROMPTS), sampling)]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("loop", "second"), [(1, 0), (1, 2), (2, 0)])
def test_the_tokens_are_those_of_plain_decoding(
    target: Any, sampling: Sampling, batch: int, loop: int, second: int, tmp_path: Path
) -> None:
    """A head of random numbers, and one that names a wrong token always: nothing of it is accepted."""
    requests = requests_of(batch, sampling)
    expected = plain(target, sampling)[:batch]
    write_random_early(tmp_path / "random", target, loop=loop)
    found = run(target, drafter(target, head=str(tmp_path / "random"), second=second), requests)
    assert [one.token_ids for one in found] == expected
    write_stubborn(tmp_path / "stubborn", target, {t for text in expected for t in text}, loop=loop)
    found = run(target, drafter(target, head=str(tmp_path / "stubborn"), second=second), requests)
    assert [one.token_ids for one in found] == expected
    for one in found:
        assert one.stats.num_drafted > 0
        if not second:
            assert one.stats.num_accepted == 0
            # The prompt is one whole call, and every other token takes as many passes as there are loops.
            assert one.stats.num_passes == (LENGTH - 1) * target.num_loops


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_an_untrained_head_is_the_early_output(target: Any, sampling: Sampling, tmp_path: Path) -> None:
    config = early_config(target, 1)
    tensors = {name: np.ones(shape, np.float32) for name, shape in config.shapes().items()}
    tensors |= {name: 0 * tensors[name] for name in ("output.weight", "output.bias")}
    write_early(tmp_path, EarlyWeights(config, tensors))
    requests = requests_of(5, sampling)
    with_head = run(target, drafter(target, head=str(tmp_path)), requests)
    without = run(target, drafter(target, early=1), requests)
    assert [one.stats.num_passes for one in with_head] == [one.stats.num_passes for one in without]
    assert sum(one.stats.num_accepted for one in without) > 0
    assert [one.stats.num_accepted for one in with_head] == [one.stats.num_accepted for one in without]


def _nothing(states: np.ndarray) -> np.ndarray:
    return np.full_like(states, np.nan)


def _endless(states: np.ndarray) -> np.ndarray:
    return np.where(states > 0, np.inf, -np.inf).astype(np.float32)


def _huge(states: np.ndarray) -> np.ndarray:
    return np.full_like(states, 3e38)


@pytest.mark.parametrize("head", [_nothing, _endless, _huge])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_states_that_leave_no_choice_are_no_guess(target: Any, head: Any, sampling: Sampling) -> None:
    drafter = Speed(early=1, target=target)
    drafter.heads = {1: head}
    found = run(target, drafter, requests_of(3, sampling))
    assert [one.token_ids for one in found] == plain(target, sampling)[:3]


def test_edits_and_logprobs_are_those_of_plain_decoding(target: Any, tmp_path: Path) -> None:
    def edit(text: Any, path: Any) -> Edit | None:
        """No token may follow itself."""
        return Edit(ids=np.array([[*text, *path][-1]], np.int32), added=np.array([-50.0], np.float32))

    write_random_early(tmp_path, target)
    for sampling in SAMPLINGS:
        request = Request([4, 4], sampling, LENGTH, edit=edit, logprobs=2)
        expected, found = (
            run(target, one, [request])[0] for one in (NoDraft(), drafter(target, head=str(tmp_path)))
        )
        assert found.token_ids == expected.token_ids
        assert found.logprobs is not None and expected.logprobs is not None
        ours, theirs = ([one.logprob for one in result.logprobs or ()] for result in (found, expected))
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_model_of_half_floats(tmp_path: Path) -> None:
    target = hf_bf16(tmp_path)
    write_stubborn(tmp_path, target, ())
    found = run(target, drafter(target, head=str(tmp_path)), requests_of(1, SAMPLINGS[0]))
    assert len(found[0].token_ids) == LENGTH


def test_the_head_has_its_loop(tmp_path: Path) -> None:
    target = TARGETS["native, 8 bit"](tmp_path)
    write_random_early(tmp_path / "2", target, loop=2)
    path = str(tmp_path / "2")
    assert list(drafter(target, head=path).guesses(1)) == [2]
    assert list(drafter(target, head=path, early=2).guesses(1)) == [2]
    assert list(drafter(target, head=path, second=3).guesses(1)) == [2, 3]
    made = DRAFTERS.create(f"speed:head={path},second=3,draft=ngram", target=target, context={})
    assert list(made.guesses(1)) == [2, 3] and list(made.heads) == [2]
    assert not drafter(target, early=2).heads
    for early in (1, 3, -1, 4):
        with pytest.raises(OutpaceError, match=f"early={early} and a head .* loop 2, accepted are early=2"):
            drafter(target, head=path, early=early)
    for second in (1, 2, 4):
        with pytest.raises(OutpaceError, match=f"second={second}, accepted are 3 to 3, or 0"):
            drafter(target, head=path, second=second)


def test_a_head_for_something_else_is_refused(tmp_path: Path) -> None:
    target = TARGETS["native, 8 bit"](tmp_path)
    write_random_early(tmp_path / "head", target)
    path = str(tmp_path / "head")
    other = gguf_target(tmp_path / "head", "llama", "F32", num_hidden_layers=2)
    with pytest.raises(OutpaceError, match="looped models"):
        drafter(other, head=path)
    with pytest.raises(OutpaceError, match=r"of a model of 4 loops, accepted are .* this one, which has 1"):
        EarlyHead(other, path)
    three = looped_model(tmp_path, ("llama", "Q4_1", 2, 3, False, "f16"))
    with pytest.raises(OutpaceError, match=r"of a model of 4 loops, accepted are .* this one, which has 3"):
        drafter(three, head=path)
    floats = looped_model(tmp_path, ("llama", "F32", 2, 4, False, "f16"))
    with pytest.raises(OutpaceError, match=r"another model \(a tiny model\); accepted are heads of this one"):
        drafter(floats, head=path)
    wide = HfLoopedTarget(tiny_looped())
    with pytest.raises(OutpaceError, match="of a model of 4 loops"):
        drafter(wide, head=path)
    with pytest.raises(OutpaceError, match="no folder of heads"):
        drafter(target, head=str(tmp_path / "gone"))
    table = LoopedTable.of(4, 0.5, vocab_size=9)
    with pytest.raises(OutpaceError, match="an early head reads hidden states and the target LoopedTable"):
        drafter(table, head=path)
    with pytest.raises(OutpaceError, match="looped models"):
        drafter(HfCausalTarget(tiny_model("llama", num_hidden_layers=1)), head=path)
