"""Training of early heads on a tiny model: the loss against plain arithmetic, agreement, resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.drafters.model.speed import Speed  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads.early import EarlyHead, read_early  # noqa: E402
from outpace.heads.folder import CONFIG, WEIGHTS  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_looped import HfLoopedTarget  # noqa: E402
from outpace.targets.hf_looped_model import LoopedForCausalLM  # noqa: E402
from outpace.train.checkpoint import RUN, STATE  # noqa: E402
from outpace.train.early import train_early  # noqa: E402
from outpace.train.loop import Plan  # noqa: E402
from tests.fakes import whole  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402
from tests.looped_models import loop_logits, write_looped  # noqa: E402
from tests.native_models import open_target  # noqa: E402

PROMPTS = [[n, 2 * n + 1, 90 - n] for n in range(3, 10)]
SAMPLINGS = [Sampling(), Sampling(temperature=0.8, seed=3)]
LENGTH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "looped"
    write_looped(folder, "looped")
    model = LoopedForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight *= 4.0  # random ones say hardly more of one token than of another
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def model(folder: Path) -> Any:
    return LoopedForCausalLM.from_pretrained(folder, dtype=torch.float32)


def run(target: Any, drafter: Any, prompt: list[int], sampling: Sampling) -> Generation:
    result: Generation = whole(generate(target, drafter, Match(), Request(prompt, sampling, LENGTH)))[1]
    return result


def texts(model: Any) -> Any:
    """The model's own, i64[B, T]."""
    target = HfLoopedTarget(model)
    rows = [[*prompt, *run(target, NoDraft(), prompt, SAMPLINGS[0]).token_ids] for prompt in PROMPTS]
    return torch.tensor([[*row, *[0] * (len(PROMPTS[0]) + LENGTH - len(row))] for row in rows])


def batch_of(ids: Any) -> dict[str, Any]:
    labels = ids.clone()
    labels[:, :2] = labels[0, 9:] = -100
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("loop", [1, 2])
def test_the_loss_is_that_of_plain_arithmetic(folder: Path, model: Any, tmp_path: Path, loop: int) -> None:
    """The loss of the first step, where the head adds nothing yet: the final law's under the early one."""
    batch = batch_of(torch.randint(3, 290, (3, 20), generator=torch.Generator().manual_seed(1)))
    train_early(model, lambda step: batch, tmp_path, loop=loop, plan=Plan(1))
    total, num = 0.0, 0
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        laws = loop_logits(folder, ids).log_softmax(-1)
        for place in (place for place, label in enumerate(labels) if label >= 0):
            total -= float((laws[-1, place].exp() * laws[loop - 1, place]).sum())
            num += 1
    ((step, loss),) = json.loads((tmp_path / RUN).read_text())["losses"]
    assert step == 1 and loss == pytest.approx(total / num, abs=2e-3)


@pytest.mark.parametrize("loop", [1, 2])
def test_a_trained_head_is_right_more_often(folder: Path, model: Any, tmp_path: Path, loop: int) -> None:
    """In torch and natively, with plain decoding's tokens; the model is none the wiser."""
    native = open_target(folder, tmp_path / "cache")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = batch_of(texts(model))
    plan, forms = Plan(100, lr=1e-2), [native.fingerprint()]
    config = train_early(model, lambda step: batch, tmp_path / "h", loop=loop, plan=plan, targets=forms)
    assert config == read_early(tmp_path / "h").config and config.targets[1:] == tuple(forms)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for target in (HfLoopedTarget(model), native):
        head = EarlyHead(target, tmp_path / "h")
        for sampling in SAMPLINGS:
            wrong = {"trained": 0, "untrained": 0}
            for prompt in PROMPTS:
                plain = run(target, NoDraft(), prompt, sampling).token_ids
                for name, drafter in (
                    ("trained", Speed(head=head, target=target)),
                    ("untrained", Speed(early=loop, target=target)),
                ):
                    found = run(target, drafter, prompt, sampling)
                    assert found.token_ids == plain
                    wrong[name] += LENGTH - 1 - found.stats.num_accepted
            # Greedy texts are those that it was trained on.
            assert wrong["trained"] < (1.0 if sampling.temperature else 0.7) * wrong["untrained"], wrong


def test_of_an_encoder_decoder(tmp_path: Path) -> None:
    model = tiny_seq2seq("outpace_looped_marian", encoder_layers=1, decoder_layers=1)
    said = torch.randint(3, 280, (4, 9), generator=torch.Generator().manual_seed(0))
    batch = {**sources(model, [5, 3, 4, 2]), "labels": said}
    config = train_early(model, lambda step: batch, tmp_path, loop=1, width=4, plan=Plan(30, lr=1e-2))
    losses = json.loads((tmp_path / RUN).read_text())["losses"]
    assert losses[-1][1] < losses[0][1] and config.width == 4


def test_a_killed_training_goes_on_to_the_same_head(model: Any, tmp_path: Path) -> None:
    def batches(step: int) -> dict[str, Any]:
        return batch_of(torch.randint(3, 290, (2, 12), generator=torch.Generator().manual_seed(step)))

    def stops(step: int) -> dict[str, Any]:
        if step == 5:
            raise KeyboardInterrupt
        return batches(step)

    options: dict[str, Any] = {"loop": 1, "width": 8, "plan": Plan(9, lr=1e-2, checkpoint_s=0)}
    train_early(model, batches, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train_early(model, stops, tmp_path / "killed", **options)
    assert (tmp_path / "killed" / STATE).exists() and not (tmp_path / "killed" / WEIGHTS).exists()
    first = train_early(model, batches, tmp_path / "killed", **options)
    again = train_early(model, stops, tmp_path / "killed", **options)  # is read from the folder
    assert first == again and not (tmp_path / "killed" / STATE).exists()
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    found = read_early(tmp_path / "killed")
    assert np.abs(found.tensors["output.weight"]).max() > 0
    finished = json.loads((tmp_path / "killed" / RUN).read_text())
    assert finished["steps_done"] == 9 and finished["settings"]["loop"] == 1
    with pytest.raises(OutpaceError, match="width"):
        train_early(model, batches, tmp_path / "killed", **options | {"width": 9})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loop": 0}, "loop=0, accepted are 1 to 2 of 3"),
        ({"loop": 3}, "loop=3, accepted are 1 to 2 of 3"),
        ({"loop": 1.0}, r"loop=1\.0, accepted are 1 to 2 of 3"),
        ({"width": 0}, "width=0, accepted are whole numbers >= 1"),
        ({"precision": "f16"}, "precision is 'f16', accepted are"),
    ],
)
def test_what_cannot_be_trained_is_refused(model: Any, tmp_path: Path, options: Any, said: str) -> None:
    with pytest.raises(OutpaceError, match=said):
        train_early(model, dict, tmp_path / "new", **{"loop": 1, "plan": Plan(1)} | options)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_a_model_without_loops_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="plain runs its layers once, accepted are looped models"):
        train_early(tiny_model("llama"), dict, tmp_path / "new", loop=1, plan=Plan(1), name="plain")  # type: ignore[arg-type]
