"""What `accelerate` and its models are given: what is wrong is refused in one line."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402

IDS = torch.tensor([[5, 6, 7, 5, 6, 7]])
ONES = torch.ones_like(IDS)
FEATURES = torch.zeros((1, 4, 24))


def refused(why: str, call: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(OutpaceError, match=why) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def fast() -> Any:
    return outpace.accelerate(tiny_model("llama"))


@pytest.mark.parametrize(
    ("ids", "mask", "why"),
    [
        (None, None, "input_ids is missing, accepted is a tensor"),
        (IDS.tolist(), None, "input_ids is a list"),
        (IDS.numpy(), None, "input_ids is a ndarray"),
        ("text", None, "text needs a tokenizer|input_ids is a str"),
        (IDS.float(), None, r"input_ids is in torch\.float32, accepted are whole numbers"),
        (IDS.bool(), None, r"input_ids is in torch\.bool"),
        (IDS[0], None, r"input_ids has shape \(6,\), accepted are \[B, W\]"),
        (IDS[:, :0], None, r"input_ids has shape \(1, 0\)"),
        (IDS + 300, None, "token ids outside 0 to 299"),
        (-IDS, None, "token ids outside 0 to 299"),
        (IDS, ONES.tolist(), "attention_mask is a list, accepted is a tensor"),
        (IDS, ONES[:, :4], "attention_mask has shape"),
        (IDS, ONES[None, None], "attention_mask has shape"),
        (IDS, 2 * ONES, "attention_mask has other values than 0 and 1"),
        (IDS, ONES * torch.nan, "attention_mask has other values than 0 and 1"),
        (IDS, 0 * ONES, "the prompt is empty"),
        (IDS, ONES.tril()[:1], "padding on the left"),
    ],
)
def test_prompts_and_masks(fast: Any, ids: Any, mask: Any, why: str) -> None:
    for call in (fast.generate, fast.generations):
        refused(why, call, ids, mask)
    assert fast.target.num_rows == 0


def test_masks_and_ids_of_other_types_are_taken(fast: Any) -> None:
    expected = fast.generate(IDS, max_new_tokens=4)
    for mask in (ONES.bool(), ONES.float(), ONES.to(torch.uint8)):
        assert torch.equal(fast.generate(IDS, mask, max_new_tokens=4), expected)
    for ids in (IDS.int(), IDS.to(torch.int16)):
        assert torch.equal(fast.generate(ids, max_new_tokens=4).long(), expected)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "the sources are missing"),
        ({"input_ids": [[5]]}, "the sources are a list"),
        ({"input_ids": torch.ones(1, 4)}, "the sources are of shape"),
        ({"input_ids": IDS, "attention_mask": [[1] * 6]}, "attention_mask is a list"),
        ({"input_ids": IDS + 300}, "the sources have token ids outside 0 to 299"),
        ({"input_features": FEATURES}, "the sources are features, accepted are the model's input_ids"),
        ({"input_ids": IDS, "input_features": FEATURES}, "accepted are sources of one kind"),
        ({"input_ids": IDS, "decoder_input_ids": [[5]]}, "decoder_input_ids is a list"),
        (
            {"input_ids": IDS, "decoder_input_ids": torch.tensor([[5.0]])},
            r"decoder_input_ids is in torch\.float32",
        ),
        ({"input_ids": IDS, "decoder_input_ids": torch.tensor([[5], [6]])}, "as many as sources, 1"),
    ],
)
def test_sources(given: dict[str, Any], why: str) -> None:
    refused(why, outpace.accelerate(tiny_seq2seq("t5")).generate, **given)


def test_speech() -> None:
    fast = outpace.accelerate(tiny_seq2seq("whisper"))
    refused("accepted are the model's input_features", fast.generate, IDS)
    refused(
        r"in torch\.float16, accepted is the model's torch\.float32",
        fast.generate,
        input_features=FEATURES.half(),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast.generate(input_features=FEATURES, max_new_tokens=2)


@pytest.mark.parametrize(
    "option",
    [
        {"draft": 3},
        {"draft": {}},
        {"rule": 3},
        {"rule": None},
        {"tree": 3, "draft": "small"},
        {"context_length": 3.5},
        {"context_length": True},
        {"context_length": 0},
        {"kernels": 1},
        {"kernels": "blocks"},
    ],
)
def test_options_of_accelerate(option: dict[str, Any]) -> None:
    refused(next(iter(option)), outpace.accelerate, tiny_model("llama"), **option)


def test_no_draft_is_none() -> None:
    model = tiny_model("llama")
    (result,) = outpace.accelerate(model, draft=None).generations(IDS, max_new_tokens=9)
    (plain,) = outpace.accelerate(model, draft="none").generations(IDS, max_new_tokens=9)
    assert result.token_ids == plain.token_ids and result.stats.mean_accepted_length == 1


@pytest.mark.parametrize("kernels", ["torch", "block"])
def test_copies_of_models_and_of_accelerated_ones(kernels: str) -> None:
    model = tiny_model("llama", num_hidden_layers=2)
    fast = outpace.accelerate(model, kernels=kernels)
    expected = fast.generate(IDS, max_new_tokens=12)
    twin = copy.deepcopy(fast)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(
            outpace.accelerate(other, kernels=kernels).generate(IDS, max_new_tokens=12), expected
        )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-1.5)
    assert not torch.equal(fast.generate(IDS, max_new_tokens=12), expected)
    assert torch.equal(twin.generate(IDS, max_new_tokens=12), expected)


def test_a_vocabulary_that_changes_is_told() -> None:
    for model, inputs in (
        (tiny_model("llama"), {"input_ids": IDS}),
        (tiny_seq2seq("t5"), sources(tiny_seq2seq("t5"), [5])),
    ):
        fast = outpace.accelerate(model)
        model.resize_token_embeddings(310, mean_resizing=False)
        refused("has 310 tokens now and had 300", fast.generate, **inputs)
        assert fast.target.num_rows == 0
        expected = model.generate(**inputs, max_new_tokens=5, max_length=None, do_sample=False)
        assert np.array_equal(outpace.accelerate(model).generate(**inputs, max_new_tokens=5), expected)
