"""Scores from a torch tensor where there is no choice, and with options at the edge of what numbers hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.edits import Edit  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import NO_CHOICE, Sampling, choose  # noqa: E402
from outpace.targets.hf_scores import TorchScores  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402

SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.7, seed=3),
    Sampling(temperature=0.7, top_k=5, seed=3),
    Sampling(temperature=0.7, top_p=0.8, seed=3),
    Sampling(temperature=0.7, min_p=0.1, top_p=0.9, seed=3),
]
EDIT = Edit([3, 5], [1.0, -np.inf])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_logits_that_leave_no_choice(sampling: Sampling, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((6, 600)).astype(np.float32)).to(dtype)
    logits[1, 40] = torch.nan
    logits[2, 40] = torch.inf
    logits[3] = -torch.inf
    logits[4, 1:] = -torch.inf  # the only one
    scores = TorchScores(logits, [0], [[0] * 6], {})
    for edits in (None, [[EDIT] * 6], [[None] * 5 + [EDIT]]):
        (found,) = scores.choose([sampling], [8], edits)
        assert [token == NO_CHOICE for token in found] == [False, True, True, True, False, False]
        assert found[4] == 0
    assert scores.choose([sampling], [8])[0][0] == choose(logits[:1].float().numpy(), sampling, [9])[0]


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-30, 1e-5, 1e5, 1e300])
@pytest.mark.parametrize("filters", [{}, {"top_k": 4}, {"top_p": 0.5}, {"top_p": 1e-46}, {"min_p": 0.3}])
def test_temperatures_at_the_edge(temperature: float, filters: dict[str, Any]) -> None:
    logits = np.random.default_rng(1).standard_normal((5, 700)).astype(np.float32)
    sampling = Sampling(temperature=temperature, seed=7, **filters)
    scores = TorchScores(torch.from_numpy(logits), [0], [[0, 1, 2, 3, 4]], {})
    assert scores.choose([sampling], [8]) == [choose(logits, sampling, [9, 10, 11, 12, 13])]


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True}, {"do_sample": True, "top_p": 0.5}, {"min_length": 99}]
)
def test_a_model_of_damaged_weights_says_so(options: dict[str, Any]) -> None:
    for model, inputs in (
        (tiny_model("llama"), {"input_ids": torch.tensor([[5, 6, 7]])}),
        (tiny_seq2seq("t5"), sources(tiny_seq2seq("t5"), [5])),
    ):
        with torch.no_grad():
            model.get_output_embeddings().weight[7] = torch.nan
        fast = outpace.accelerate(model)
        with pytest.raises(OutpaceError, match="leave no token to choose") as error:
            fast.generate(**inputs, max_new_tokens=4, **options)
        assert "\n" not in str(error.value) and fast.target.num_rows == 0
