"""A model that several threads run at once: calls of ours, each with ways of its own, and the model's own."""

from __future__ import annotations

import copy
import io
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.hf_detours import detour_of, detours, is_replaced, replaced  # noqa: E402
from tests.hf_families import contents, tiny_model  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402
from tests.rows import on, opened  # noqa: E402


def at_once(*jobs: Callable[[], None]) -> None:
    """Run jobs in threads of their own; the first error of any is raised."""
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def theirs(model: Any, inputs: dict[str, Any]) -> Any:
    options = {"max_new_tokens": 20, "max_length": None, "eos_token_id": None, "num_beams": 1}
    return transformers.GenerationMixin.generate(model, **inputs, **options, do_sample=False)


@pytest.mark.parametrize("kernels", ["torch", "block"])
@pytest.mark.parametrize("model_type", ["llama", "t5", "bart", "m2m_100", "whisper"])
def test_ours_and_theirs_on_one_model(model_type: str, kernels: str) -> None:
    """Two accelerated models, one of them in two threads, and the model itself, with gradients too."""
    seq2seq = model_type != "llama"
    model = tiny_seq2seq(model_type) if seq2seq else tiny_model("llama")
    before = contents(model)
    if seq2seq:
        texts = [sources(model, [length], seed=length) for length in (5, 3, 9, 7)]
    else:
        texts = [{"input_ids": torch.tensor([[first, 6, 7, first, 6, 7]])} for first in (5, 8, 9, 11)]
    wanted = [theirs(model, inputs) for inputs in texts]
    fast = [outpace.accelerate(model, draft=draft, kernels=kernels) for draft in ("none", "ngram:min_n=1")]

    def ours(number: int, start: int) -> None:
        for turn in range(6):
            place = (start + turn) % 4
            output = fast[number].generate(**texts[place], max_new_tokens=20, eos_token_id=None)
            assert torch.equal(output, wanted[place])

    def plain(start: int) -> None:
        for turn in range(6):
            place = (start + turn) % 4
            assert torch.equal(theirs(model, texts[place]), wanted[place])

    def with_gradients() -> None:
        inputs = dict(texts[0])
        if seq2seq:
            inputs["decoder_input_ids"] = wanted[0][:, :5]
        expected = model(**inputs).logits
        for _ in range(10):
            logits = model(**inputs).logits
            assert logits.requires_grad
            torch.testing.assert_close(logits, expected)

    at_once(lambda: ours(0, 0), lambda: ours(1, 1), lambda: ours(1, 2), lambda: plain(3), with_gradients)
    assert contents(model) == before
    assert all(one.target.num_rows == 0 for one in fast)


def test_hidden_states_are_those_of_ones_own_call() -> None:
    model = tiny_model("llama", num_hidden_layers=2)
    targets = [HfCausalTarget(model, taps=[0, "final"]) for _ in range(3)]
    prompts = [[5, 6, 7], [9, 8, 7, 6], [1, 2]]
    trees = [TokenTree.chain(text[-1], [3] * 4) for text in prompts]

    def states(number: int) -> Any:
        rows, _ = opened(targets[number], [prompts[number]])
        scores = targets[number].score(on(rows, [trees[number]]))
        targets[number].free(rows)
        return [scores.hidden(tap) for tap in ("0", "final")]

    expected = [states(number) for number in range(3)]

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(30):
                for found, wanted in zip(states(number), expected[number], strict=True):
                    assert found.shape == wanted.shape and abs(found - wanted).max() < 1e-5

        return run

    at_once(*map(job, range(3)))


def linear() -> Any:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 4)


def test_a_way_is_that_of_one_thread_and_later_ones_see_it() -> None:
    layer, x = linear(), torch.ones(1, 4)
    plain = layer(x)
    seen: list[Any] = []
    double = (layer, lambda forward: lambda x: 2 * forward(x))
    with detours([double]):
        assert torch.equal(layer(x), 2 * plain)
        with detours([double]):
            assert torch.equal(layer(x), 4 * plain)
            at_once(lambda: seen.append(layer(x)))
        assert torch.equal(layer(x), 2 * plain)
        assert not is_replaced(layer)
    assert torch.equal(seen[0], plain) and torch.equal(layer(x), plain)
    assert "forward" not in vars(layer)


def test_somebody_elses_forward_is_kept() -> None:
    layer, x = linear(), torch.ones(1, 4)
    layer.forward = lambda x: x - 1
    with replaced([(detour_of(layer), lambda x: x + 1)]):
        assert is_replaced(layer)
        assert torch.equal(layer(x), x + 1)
        at_once(lambda: torch.testing.assert_close(layer(x), x - 1))
    assert is_replaced(layer) and torch.equal(layer(x), x - 1)


def test_calls_that_end_in_another_order_than_they_began() -> None:
    layer, x = linear(), torch.ones(1, 4)
    plain = layer(x)
    began, ended = threading.Event(), threading.Event()

    def first() -> None:
        with replaced([(detour_of(layer), lambda x: x + 1)]):
            began.set()
            assert ended.wait(10)
            assert torch.equal(layer(x), x + 1)
        assert torch.equal(layer(x), plain)

    def second() -> None:
        assert began.wait(10)
        with pytest.raises(ZeroDivisionError), detours([(layer, lambda forward: lambda x: x + 2)]):
            assert torch.equal(layer(x), x + 2)
            raise ZeroDivisionError
        assert torch.equal(layer(x), plain)
        ended.set()

    at_once(first, second)
    assert "forward" not in vars(layer)


def test_a_copy_that_is_made_meanwhile_has_the_models_own_way() -> None:
    layer, x = linear(), torch.ones(1, 4)
    plain = layer(x)
    with detours([(layer, lambda forward: lambda x: 2 * forward(x))]):
        twin = copy.deepcopy(layer)
        buffer = io.BytesIO()
        torch.save(layer, buffer)
    buffer.seek(0)
    stored = torch.load(buffer, weights_only=False)
    with torch.no_grad():
        layer.weight.zero_()
    for made in (twin, stored):
        assert torch.equal(made(x), plain)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_child_has_the_ways_of_its_one_thread() -> None:
    layer = linear()
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with replaced([(detour_of(layer), lambda x: x)]):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(int("forward" in vars(layer)))
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
