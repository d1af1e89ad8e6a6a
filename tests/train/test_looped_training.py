"""Training of looped models on a tiny one: the loss against plain arithmetic, agreement, resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.targets.hf_looped_model import LoopedForCausalLM  # noqa: E402
from outpace.train.checkpoint import RUN, STATE  # noqa: E402
from outpace.train.loop import Plan, train  # noqa: E402
from outpace.train.looped import Early, Towards, loop_states, looped_loss, output_of, train_looped  # noqa: E402
from tests.looped_models import loop_logits, write_looped  # noqa: E402

PLAN = Plan(60, lr=3e-3)


def open_looped(folder: Path) -> Any:
    return LoopedForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_looped(tmp_path / "model", "looped")
    return tmp_path / "model"


def batches(step: int) -> dict[str, Any]:
    """Sequences in which a token is followed by its double, up to a modulus that is drawn for each."""
    random = torch.Generator().manual_seed(step)
    first = torch.randint(3, 90, (6, 1), generator=random)
    rows = [first]
    for _ in range(12):
        rows.append((rows[-1] * 2 + 1) % 97 + 3)
    ids = torch.cat(rows, dim=1)
    labels = ids[:, 1:].clone()
    labels[0, 7:] = -100
    return {"input_ids": ids[:, :-1], "labels": labels}


@pytest.mark.parametrize("towards", ["labels", "final", "mutual"])
def test_the_loss_is_that_of_plain_arithmetic(folder: Path, towards: Towards) -> None:
    early = Early({1: 0.3, 2: 0.7}, towards)
    loss = looped_loss(open_looped(folder), batches, early)(4, torch.Generator().manual_seed(0))
    batch = batches(4)
    wanted = num = 0.0
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        laws = loop_logits(folder, ids).log_softmax(-1)
        for place, label in enumerate(labels):
            if label < 0:
                continue
            num += 1
            wanted -= float(laws[-1, place, label])
            for loop, weight in early.weights.items():
                law = laws[loop - 1, place]
                goal = law[label] if towards == "labels" else (laws[-1, place].exp() * law).sum()
                if towards == "mutual":
                    goal -= (laws[-1, place].exp() * laws[-1, place]).sum()
                wanted -= weight * float(goal)
    assert loss.num_tokens == num
    assert float(loss.value.detach()) == pytest.approx(wanted / num, rel=1e-4)


@pytest.mark.parametrize("towards", ["final", "mutual"])
def test_a_gradient_reaches_the_final_output_where_both_are_to_give_way(
    folder: Path, towards: Towards
) -> None:
    """The goal of early loops is what the last one says: it must not come to say what is easy to guess."""
    model = open_looped(folder)
    batch = batches(0)
    labels = batch.pop("labels")
    random, early = torch.Generator().manual_seed(0), Early({1: 1.0}, towards)
    looped_loss(model, lambda _: {**batch, "labels": labels}, early)(0, random).value.backward()
    mine = [one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    states = [output_of(model, state[labels >= 0]) for state in loop_states(model, batch, labels)]
    goal = states[-1].log_softmax(-1)
    goal = goal if towards == "mutual" else goal.detach()
    value = torch.nn.functional.cross_entropy(states[-1], labels[labels >= 0])
    (value + (goal.exp() * (goal - states[0].log_softmax(-1))).sum(-1).mean()).backward()
    for one, parameter in zip(mine, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-6)


def agreement(model: Any) -> float:
    batch = batches(1000)
    labels = batch.pop("labels")
    with torch.no_grad():
        states = loop_states(model, batch, labels)
        named = [output_of(model, state[labels >= 0]).argmax(-1) for state in states]
    return float((named[0] == named[-1]).float().mean())


def test_early_losses_raise_agreement(folder: Path, tmp_path: Path) -> None:
    shares = {}
    asked = {"none": Early(), "final": Early({1: 1.0}), "mutual": Early({1: 4.0}, "mutual")}
    for name, early in asked.items():
        model = open_looped(folder)
        train_looped(model, batches, tmp_path / name, early=early, plan=PLAN)
        shares[name] = agreement(model)
    assert shares["final"] > shares["none"] + 0.05 and shares["mutual"] > shares["none"] + 0.05, shares


def test_a_killed_training_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    plan, early = Plan(8, lr=3e-3, checkpoint_s=0), Early({1: 0.5})
    whole, killed = open_looped(folder), open_looped(folder)
    train_looped(whole, batches, tmp_path / "whole", early=early, plan=plan)

    def stops(step: int) -> dict[str, Any]:
        if step == 5:
            raise KeyboardInterrupt
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        train_looped(killed, stops, tmp_path / "killed", early=early, plan=plan)
    assert (tmp_path / "killed" / STATE).exists()
    again = open_looped(folder)
    train_looped(again, batches, tmp_path / "killed", early=early, plan=plan)
    done = open_looped(folder)
    train_looped(done, batches, tmp_path / "killed", early=early, plan=plan)  # is read from the folder
    assert not (tmp_path / "killed" / STATE).exists()
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
        assert torch.equal(done.state_dict()[name], value), name
    run = json.loads((tmp_path / "killed" / RUN).read_text())
    assert run["finished"] and run["settings"]["early"] == {"1": 0.5} and run["steps_done"] == 8


@pytest.mark.parametrize(
    ("early", "said"),
    [
        ({3: 0.5}, "loop 3 has the weight 0.5, accepted are early loops of 3 (1 to 2) and weights > 0"),
        ({0: 0.5}, "loop 0 has the weight 0.5"),
        ({1: 0.0}, "loop 1 has the weight 0.0"),
        ({"1": 0.5}, "loop '1' has the weight 0.5"),
    ],
)
def test_loops_that_are_not_early_are_refused(folder: Path, tmp_path: Path, early: Any, said: str) -> None:
    with pytest.raises(OutpaceError) as raised:
        train_looped(open_looped(folder), batches, tmp_path / "new", early=Early(early), plan=PLAN)
    assert said in str(raised.value)
    assert not (tmp_path / "new").exists()


def test_a_model_of_one_loop_has_no_early_loss(tmp_path: Path) -> None:
    write_looped(tmp_path / "once", "looped_once")
    model = open_looped(tmp_path / "once")
    with pytest.raises(OutpaceError, match=r"accepted are early loops of 1 \(none\)"):
        looped_loss(model, batches, Early({1: 0.5}))
    train_looped(model, batches, tmp_path / "new", early=Early(), plan=Plan(2))


def test_other_goals_and_other_runs_are_refused(folder: Path, tmp_path: Path) -> None:
    towards: Any = "both"
    with pytest.raises(OutpaceError, match="towards is 'both', accepted are labels, final, mutual"):
        Early({1: 0.5}, towards)
    train_looped(open_looped(folder), batches, tmp_path / "new", early=Early({1: 0.5}), plan=Plan(2))
    with pytest.raises(OutpaceError, match="holds a run with early="):
        train_looped(open_looped(folder), batches, tmp_path / "new", early=Early({1: 0.6}), plan=Plan(2))


def test_train_reads_the_loss_as_its_own(folder: Path, tmp_path: Path) -> None:
    """`looped_loss` is a loss of the common loop: a few steps lower it."""
    from outpace.train.checkpoint import Checkpoint

    model = open_looped(folder)
    loss = looped_loss(model, batches, Early({2: 0.5}))
    before = float(loss(0, torch.Generator().manual_seed(0)).value.detach())
    train([model], loss, Plan(20, lr=3e-3), Checkpoint(tmp_path / "run", {}))
    assert float(loss(0, torch.Generator().manual_seed(0)).value.detach()) < before
