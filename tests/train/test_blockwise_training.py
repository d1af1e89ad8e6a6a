"""Training of heads on tiny models: labels and losses against loops, regimes, and that drafts get longer."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.call import Prompt  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.drafters.heads.blockwise import Blockwise  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import events  # noqa: E402
from outpace.engine.request import Generation, Request  # noqa: E402
from outpace.heads.file import HeadsConfig, read_heads  # noqa: E402
from outpace.heads.proposals import ProposalHeads  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget  # noqa: E402
from outpace.targets.hf_taps import model_fingerprint  # noqa: E402
from outpace.train.bases import CausalBase, Seq2SeqBase, look_ahead  # noqa: E402
from outpace.train.blockwise import MODEL_FOLDER, Trunk, train_blockwise  # noqa: E402
from outpace.train.head_losses import BlockwiseLoss, HeadLayer, equal, falling  # noqa: E402
from outpace.train.loop import Plan  # noqa: E402
from outpace.trees.chain import Chain  # noqa: E402
from tests.fakes import whole  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import START_ID, sources, tiny_seq2seq  # noqa: E402

NONE = -100
LENGTHS = [6, 4, 1, 9]


def marian() -> Any:
    return tiny_seq2seq("marian", encoder_layers=1, decoder_layers=1)


def labels_of(lengths: list[int], *, seed: int = 0) -> Any:
    """i64[B, T]: random tokens, and none behind the ends."""
    ids = torch.randint(3, 280, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return ids.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], NONE)


def translation_batch(model: Any, *, seed: int = 0) -> dict[str, Any]:
    return {**sources(model, [5, 3, 4, 2], seed=seed), "labels": labels_of(LENGTHS, seed=seed)}


def naively(labels: Any, num_heads: int) -> list[list[list[int]]]:
    rows = labels.tolist()
    return [
        [[row[t + i] if t + i < len(row) else NONE for i in range(num_heads)] for t in range(len(row))]
        for row in rows
    ]


@pytest.mark.parametrize("num_heads", [1, 2, 5, 12])
def test_look_ahead(num_heads: int) -> None:
    labels = labels_of(LENGTHS)
    assert look_ahead(labels, num_heads).tolist() == naively(labels, num_heads)


def test_states_of_a_translation_are_those_of_its_decoder() -> None:
    """One text at a time, no padding, the model's own call: states in the order of rows and places."""
    model = marian()
    batch = translation_batch(model)
    with torch.no_grad():
        states, ahead = Seq2SeqBase(model).states(batch, 3)
        expected = []
        for row, length in enumerate(LENGTHS):
            source = batch["input_ids"][row][batch["attention_mask"][row] > 0]
            labels = batch["labels"][row, :length]
            outputs = model(
                input_ids=source[None],
                decoder_input_ids=torch.cat([torch.tensor([START_ID]), labels[:-1]])[None],
                output_hidden_states=True,
            )
            expected.append(outputs.decoder_hidden_states[-1][0])
    torch.testing.assert_close(states, torch.cat(expected), rtol=1e-4, atol=1e-5)
    kept = [three for row in naively(batch["labels"], 3) for three in row if max(three) >= 0]
    assert ahead.tolist() == kept and len(kept) == sum(LENGTHS)


def test_states_of_a_decoder_alone() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    ids = labels_of(LENGTHS).clamp(min=0)
    labels = torch.full_like(ids, NONE)
    labels[0, 2:5] = ids[0, 3:6]  # the first three tokens are the prompt
    labels[3, :8] = ids[3, 1:9]
    with torch.no_grad():
        states, ahead = CausalBase(model).states({"input_ids": ids, "labels": labels}, 2)
        first = model.model(ids[0, :6][None]).last_hidden_state[0, 1:5]
        second = model.model(ids[3, :9][None]).last_hidden_state[0, :8]
    torch.testing.assert_close(states, torch.cat([first, second]), rtol=1e-4, atol=1e-5)
    tokens = [[NONE, *ids[0, 3:6].tolist(), NONE], [*ids[3, 1:9].tolist(), NONE]]
    assert ahead.tolist() == [list(two) for row in tokens for two in pairwise(row)]


def random_layer(num_learned: int, *, width: int = 5) -> Any:
    layer = HeadLayer(32, num_learned, width)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return layer


@pytest.mark.parametrize("token_ids", [None, np.arange(0, 300, 3)])
@pytest.mark.parametrize("first", ["identity", "learned"])
@pytest.mark.parametrize(("count", "weights"), [(1, equal(4)), (2, falling(4)), (4, (0.5, 0.1, 0.0, 0.4))])
def test_the_loss_is_the_mean_over_heads(
    first: str, count: int, weights: tuple[float, ...], token_ids: Any
) -> None:
    """By hand: softmax over the model's own logits of each head's states, token by token."""
    model = marian()
    with torch.no_grad():
        model.final_logits_bias.copy_(torch.linspace(-2, 2, 300)[None])
    base, num_heads = Seq2SeqBase(model), 4
    layer = random_layer(num_heads - (first == "identity"))
    loss = BlockwiseLoss(base, layer, weights, count, token_ids, finetuned=True)
    batch = translation_batch(model)
    found = loss(batch, torch.Generator().manual_seed(7))
    trained = [head for head in range(4) if weights[head]]
    order = torch.randperm(len(trained), generator=torch.Generator().manual_seed(7))[:count].tolist()
    picked = [trained[number] for number in order]
    with torch.no_grad():
        states, ahead = base.states(batch, num_heads)
        weight = model.get_output_embeddings().weight.double().numpy()
        bias = model.final_logits_bias[0].double().numpy()
        if token_ids is not None:
            weight, bias = weight[token_ids], bias[token_ids]
        means, tokens = [], 0
        for head in picked:
            own = []
            for x, wanted in zip(states.double().numpy(), ahead[:, head].tolist(), strict=True):
                known = wanted >= 0 and (token_ids is None or wanted in token_ids)
                if not known:
                    continue
                logits = weight @ head_state(layer, x, head - (first == "identity")) + bias
                place = wanted if token_ids is None else token_ids.tolist().index(wanted)
                own.append(np.log(np.exp(logits - logits.max()).sum()) - logits[place] + logits.max())
            means.append(np.mean(own))
            tokens += len(own)
    assert found.num_tokens == tokens > 0
    mean = sum(weights[head] * own for head, own in zip(picked, means, strict=True))
    mean *= len(trained) / len(picked)  # of those that were drawn, for all of them
    assert float(found.value.detach()) == pytest.approx(mean, rel=1e-4)


class Misshapen(Seq2SeqBase):
    """A base that gives states of a text as they are, or too few tokens ahead."""

    def __init__(self, model: Any, spoil: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        super().__init__(model)
        self.spoil = spoil

    def states(self, batch: Any, num_heads: int) -> tuple[Any, Any]:
        return self.spoil(*super().states(batch, num_heads))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda states, ahead: (states[None], ahead), r"states are \[n, D\]"),
        (lambda states, ahead: (states[:, 1:], ahead), r"states are \[n, D\]"),
        (lambda states, ahead: (states, ahead[:, :1]), "as many tokens ahead"),
        (lambda states, ahead: (states, ahead[:-1]), "as many tokens ahead"),
    ],
)
def test_a_base_of_ones_own_is_held_to_its_shapes(spoil: Any, message: str) -> None:
    model = marian()
    loss = BlockwiseLoss(Misshapen(model, spoil), random_layer(2), equal(2), 2, None, finetuned=False)
    with pytest.raises(AssertionError, match=message):
        loss(translation_batch(model), torch.Generator().manual_seed(7))


def head_state(layer: Any, x: np.ndarray, learned: int) -> np.ndarray:
    """f64[D]: the residual layer of one learned head; the state itself for the identity."""
    if learned < 0:
        return x
    w1, b1, w2, b2 = (
        t.detach().double().numpy()
        for t in (layer.hidden.weight, layer.hidden.bias, layer.output.weight, layer.output.bias)
    )
    part = slice(32 * learned, 32 * (learned + 1))
    return x + w2[part] @ np.maximum(w1 @ x + b1, 0) + b2[part]


def test_every_head_is_drawn_as_often() -> None:
    """The paper's estimate of the mean is unbiased: each head in its turn, by the step's random numbers."""
    model = marian()
    layer = random_layer(3)
    loss = BlockwiseLoss(Seq2SeqBase(model), layer, (0, *equal(3)), 1, None, finetuned=False)
    heads: list[int] = []
    narrow = layer.narrow
    layer.narrow = lambda states, wide, head: heads.append(head + 1) or narrow(states, wide, head)
    batch = translation_batch(model)
    for step in range(300):
        loss(batch, torch.Generator().manual_seed(step))
    assert set(heads) == {1, 2, 3} and all(70 < heads.count(head) < 130 for head in (1, 2, 3))


def test_texts_shorter_than_a_head_looks_ahead_teach_it_nothing() -> None:
    model = marian()
    layer = random_layer(3)
    loss = BlockwiseLoss(Seq2SeqBase(model), layer, (0, 0, 0, 1), 1, None, finetuned=False)
    batch = {**sources(model, [5, 3]), "labels": labels_of([3, 2])}
    found = loss(batch, torch.Generator())
    assert (float(found.value.detach()), found.num_tokens) == (0.0, 0)
    found.value.backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


def run(
    model: Any, folder: Path, steps: int, *, make: Callable[..., Any] = translation_batch, **options: Any
) -> HeadsConfig:
    plan = options.pop("plan", None) or Plan(steps, lr=options.pop("lr", 3e-3), seed=1)
    base = options.pop("base", None) or Seq2SeqBase(model, name="tiny marian")
    config: HeadsConfig = train_blockwise(
        base, lambda step: make(model, seed=step % 3), folder, num_heads=3, plan=plan, **options
    )
    return config


def weights_of(model: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("first", ["identity", "learned"])
def test_frozen_heads_leave_the_model_as_it_is(tmp_path: Path, first: Any) -> None:
    model = marian()
    before = weights_of(model)
    config = run(model, tmp_path, 4, first=first, width=7)
    assert same_weights(weights_of(model), before)
    assert all(p.grad is None for p in model.parameters()), "they would cost as much as the logits"
    assert any(p.requires_grad for p in model.parameters()), "as the caller's was"
    assert config == HeadsConfig(3, 32, 7, model_fingerprint(model), "tiny marian", first)
    heads = read_heads(tmp_path)
    assert heads.config == config and heads.token_ids is None
    assert np.abs(heads.tensors["output.weight"]).max() > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "model.safetensors", "run.json",
    ]  # fmt: skip
    assert ProposalHeads(HfSeq2SeqTarget(model), tmp_path).num_drafted == 2


def test_finetuned_heads_come_with_their_model(tmp_path: Path) -> None:
    import transformers

    model = marian()
    before = weights_of(model)
    config = run(model, tmp_path, 4, regime="finetuned")
    after = weights_of(model)
    assert not same_weights(before, after)
    again = transformers.MarianMTModel.from_pretrained(tmp_path / MODEL_FOLDER).eval()
    for name, value in again.state_dict().items():
        assert torch.equal(value, after[name]), name
    assert config.target == model_fingerprint(again) != model_fingerprint(marian())
    assert ProposalHeads(HfSeq2SeqTarget(again), tmp_path).num_drafted == 2
    with pytest.raises(OutpaceError, match="trained on another model"):
        ProposalHeads(HfSeq2SeqTarget(marian()), tmp_path)


def test_heads_may_be_trained_alone_at_first(tmp_path: Path) -> None:
    """No weight of the model moves before its part of the steps, and the heads' loss falls in theirs."""
    model, before = marian(), {name: value.clone() for name, value in marian().state_dict().items()}
    moved = []

    def batches(step: int) -> dict[str, Any]:
        moved.append(any(not torch.equal(value, before[name]) for name, value in model.state_dict().items()))
        return translation_batch(model)

    options: dict[str, Any] = {"num_heads": 3, "regime": "finetuned", "plan": Plan(8, 1e-2)}
    train_blockwise(Seq2SeqBase(model), batches, tmp_path, trunk=Trunk(heads_first=0.5), **options)
    assert moved == [False] * 5 + [True] * 3  # the fifth step is the first to move it
    losses = [loss for _, loss in json.loads((tmp_path / "run.json").read_text())["losses"]]
    assert min(losses[1:4]) < losses[0]


@pytest.mark.parametrize(
    "wrong", [{"heads_first": 1.0}, {"heads_first": -0.1}, {"rate": 0.0}, {"rate": np.nan}]
)
def test_a_model_that_could_not_be_finetuned_so_gets_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(OutpaceError, match=r"accepted are 0 to less than 1, and numbers > 0"):
        Trunk(**wrong)


def test_the_model_warms_up_from_where_it_begins_to_learn() -> None:
    plan, trunk = Plan(100, 1.0, warmup=0.1), Trunk(heads_first=0.4, rate=0.5)
    rates = [trunk.rate_of(plan, step) for step in range(100)]
    assert rates[:40] == [0.0] * 40 and 0 < rates[40] < 0.2 * plan.rate(40)
    assert rates[39:50] == sorted(rates[39:50])
    assert rates[50:] == [0.5 * plan.rate(step) for step in range(50, 100)]


def test_every_second_step_may_be_one_of_the_models_own_task(tmp_path: Path) -> None:
    """Head 1 alone learns from them: with a rate of almost nothing for the model, the heads stand still."""
    model = marian()
    read: list[str] = []

    def batches(kind: str) -> Callable[[int], Any]:
        return lambda step: read.append(f"{kind} {step}") or translation_batch(model, seed=step)

    options: dict[str, Any] = {"num_heads": 3, "regime": "finetuned", "plan": Plan(6, 1e-2)}
    trunk = Trunk(heads_first=0.3, gold=batches("gold"))
    train_blockwise(Seq2SeqBase(model), batches("own"), tmp_path, trunk=trunk, **options)
    assert read == ["own 0", "own 1", "own 2", "gold 3", "own 4", "gold 5"]
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["gold"] is True
    loss = BlockwiseLoss(Seq2SeqBase(model), random_layer(2), (1.0, 0.0, 0.0), 3, None, finetuned=True)
    batch = translation_batch(model)
    value = loss(batch, torch.Generator().manual_seed(0)).value
    known = batch["labels"] >= 0
    from outpace.train.bases import shifted

    said = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
        decoder_input_ids=shifted(batch["labels"], model.config),
    ).logits[known]  # fmt: skip
    own = torch.nn.functional.cross_entropy(said, batch["labels"][known])
    assert float(value.detach()) == pytest.approx(float(own.detach()), rel=1e-4)


def test_a_finetuned_model_has_its_dropout(tmp_path: Path) -> None:
    """In the steps in which it learns, and none after them; frozen ones have none."""
    model = tiny_seq2seq("marian", encoder_layers=1, decoder_layers=1, dropout=0.4)
    modes: list[bool] = []

    def make(model: Any, *, seed: int) -> Any:
        return translation_batch(model, seed=seed)

    model.get_decoder().register_forward_pre_hook(lambda *_: modes.append(model.training))
    run(model.eval(), tmp_path / "tuned", 4, make=make, regime="finetuned", trunk=Trunk(heads_first=0.5))
    assert modes == [False, False, True, True] and not model.training
    modes.clear()
    run(model, tmp_path / "frozen", 2, make=make)
    assert modes == [False, False]


@pytest.mark.parametrize("num_heads", [2, 4, 8])
def test_weights_fall_from_a_half(num_heads: int) -> None:
    weights = falling(num_heads)
    assert weights[0] == 0.5 and sum(weights) == pytest.approx(1) and len(weights) == num_heads
    assert all(b / a == pytest.approx(0.6) for a, b in pairwise(weights[1:]))
    assert sum(equal(num_heads)) == pytest.approx(1) and len({*equal(num_heads)}) == 1


def test_training_goes_on_from_fewer_heads(tmp_path: Path) -> None:
    """Heads that were trained draft what they drafted, and the new one begins as head 1."""
    model = marian()
    run(model, tmp_path / "two", 6, width=7)
    start = read_heads(tmp_path / "two")
    states = torch.randn(5, 32)
    old, new = HeadLayer(32, 2, 7), HeadLayer(32, 3, 7)
    old.load_state_dict({name: torch.from_numpy(value) for name, value in start.tensors.items()})
    new.go_on_from(start)
    for head in range(2):
        assert torch.allclose(new(states, head), old(states, head), atol=1e-6)
        assert not torch.allclose(old(states, head), states, atol=1e-4)
    assert torch.equal(new(states, 2), states)
    options: dict[str, Any] = {"num_heads": 4, "width": 7, "plan": Plan(1, 1e-9), "start": start}
    train_blockwise(Seq2SeqBase(model), lambda _: translation_batch(model), tmp_path / "three", **options)
    longer = read_heads(tmp_path / "three").tensors
    assert np.allclose(longer["hidden.weight"][:14], start.tensors["hidden.weight"], atol=1e-4)
    assert np.allclose(longer["output.weight"][:64, :14], start.tensors["output.weight"], atol=1e-4)


def test_heads_that_training_cannot_go_on_from_get_one_line(tmp_path: Path) -> None:
    model = marian()
    run(model, tmp_path / "heads", 1, width=7)
    start = read_heads(tmp_path / "heads")
    with pytest.raises(OutpaceError, match=r"3 of width 7.*accepted are 3 or fewer of width 8"):
        run(model, tmp_path / "wide", 1, width=8, start=start)
    other = tiny_seq2seq("marian", encoder_layers=1, decoder_layers=2)
    with pytest.raises(OutpaceError, match="those of tiny marian, accepted are of other"):
        run(other, tmp_path / "other", 1, width=7, start=start, base=Seq2SeqBase(other, name="other"))


def test_a_finished_folder_is_not_trained_again(tmp_path: Path) -> None:
    model = marian()
    config = run(model, tmp_path, 3)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert json.loads(files["run.json"])["steps_done"] == 3

    def nothing(model: Any, *, seed: int) -> Any:
        raise AssertionError("a batch was asked for")

    assert run(model, tmp_path, 3, make=nothing) == config
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    with pytest.raises(OutpaceError, match=r"holds a run with steps=3 \(now \d+\); accepted are the same"):
        run(model, tmp_path, 4)
    with pytest.raises(OutpaceError, match=r"holds a run with target="):
        other = marian()
        with torch.no_grad():
            other.model.shared.weight[0, 0] += 1
        run(other, tmp_path, 3)
    (tmp_path / "checkpoint.pt").write_bytes(b"left by a kill")
    run(model, tmp_path, 3, make=nothing)
    assert not (tmp_path / "checkpoint.pt").exists()
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"][:99])
    with pytest.raises(OutpaceError, match=r"model\.safetensors"):
        run(model, tmp_path, 3, make=nothing)


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ({"plan": Plan(3, warmup=0.1)}, {"plan": Plan(3, warmup=0.2)}, "warmup=0.1"),
        ({"plan": Plan(3, weight_decay=0.1)}, {"plan": Plan(3)}, "weight_decay=0.1"),
        ({"token_ids": np.array([3, 5])}, {"token_ids": np.array([3, 6])}, "token_ids='sha256:"),
        ({"start": 0}, {"start": 1}, "start='sha256:"),
        ({"weights": equal(3)}, {}, r"weights=\[0.333333"),
    ],
)
def test_what_decides_the_result_is_compared(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], named: str
) -> None:
    """From the first moment: a run that has no checkpoint yet is not gone on with by another one."""
    model = marian()

    def dies(model: Any, *, seed: int) -> Any:
        raise Killed

    def options(given: dict[str, Any]) -> dict[str, Any]:
        if "start" not in given:
            return given
        folder = tmp_path / f"start {given['start']}"
        run(model, folder, 1 + given["start"])
        return {"start": read_heads(folder)}

    with pytest.raises(Killed):
        run(model, tmp_path / "heads", 3, make=dies, **options(one))
    with pytest.raises(OutpaceError, match=f"holds a run with {named}"):
        run(model, tmp_path / "heads", 3, **options(other))
    run(model, tmp_path / "heads", 3, **options(one))


class Killed(Exception):
    """What the process would not survive."""


@pytest.mark.parametrize("regime", ["frozen", "finetuned"])
def test_a_killed_training_gives_the_same_heads(tmp_path: Path, regime: Any) -> None:
    plan = Plan(6, lr=3e-3, seed=1, checkpoint_s=0)

    def marian() -> Any:
        return tiny_seq2seq("marian", encoder_layers=1, decoder_layers=1, dropout=0.3)

    run(marian(), tmp_path / "whole", 0, plan=plan, regime=regime)
    asked: list[int] = []

    def dies(model: Any, *, seed: int) -> Any:
        asked.append(seed)
        if len(asked) == 4:
            raise Killed
        return translation_batch(model, seed=seed)

    with pytest.raises(Killed):
        run(marian(), tmp_path / "killed", 0, make=dies, plan=plan, regime=regime)
    run(marian(), tmp_path / "killed", 0, make=dies, plan=plan, regime=regime)
    assert len(asked) == 7, "three steps before, the one that died, and the three that were left"
    names = ["model.safetensors", "config.json"]
    names += [f"{MODEL_FOLDER}/model.safetensors"] if regime == "finetuned" else []
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_all_heads_may_share_a_batch(tmp_path: Path) -> None:
    """Then no head is drawn: the order alone is random, and the mean does not depend on it."""
    model = marian()
    losses = []
    loss = BlockwiseLoss(Seq2SeqBase(model), random_layer(3), (0, *falling(3)), 4, None, finetuned=False)
    for seed in range(6):
        losses.append(
            float(loss(translation_batch(model), torch.Generator().manual_seed(seed)).value.detach())
        )
    assert losses == pytest.approx([losses[0]] * 6, rel=1e-6)
    run(model, tmp_path, 3, heads_per_step=3)
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["heads_per_step"] == 3
    heads = read_heads(tmp_path).tensors["output.weight"].reshape(2, 32, -1)
    assert all(np.abs(head).max() > 0 for head in heads)


@pytest.mark.parametrize("regime", ["frozen", "finetuned"])
def test_products_in_bfloat16_train_alike(tmp_path: Path, regime: Any) -> None:
    """Close to float32 but not it, with weights that stay in float32, and a run of another name."""
    weights, curves = [], []
    for precision in ("float32", "bfloat16"):
        model = marian()
        run(model, tmp_path / precision, 4, regime=regime, precision=precision, heads_per_step=2)
        assert all(
            value.dtype == torch.float32 for value in model.state_dict().values() if value.is_floating_point()
        )
        weights.append(read_heads(tmp_path / precision).tensors["hidden.weight"])
        curves.append(json.loads((tmp_path / precision / "run.json").read_text())["losses"])
    assert weights[0].dtype == weights[1].dtype == np.float32
    assert not np.array_equal(weights[0], weights[1])
    assert np.array(curves[0]) == pytest.approx(np.array(curves[1]), rel=0.02)
    with pytest.raises(OutpaceError, match="precision"):
        run(marian(), tmp_path / "float32", 4, regime=regime, precision="bfloat16")


def test_a_trimmed_vocabulary_is_written_with_the_heads(tmp_path: Path) -> None:
    ids = np.arange(0, 300, 3)
    run(marian(), tmp_path, 3, token_ids=ids)
    found = read_heads(tmp_path).token_ids
    assert found is not None and found.tolist() == ids.tolist()
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["num_tokens"] == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regime": "melted"}, "regime is 'melted', accepted for tiny marian are frozen, finetuned"),
        ({"heads_per_step": 0}, "heads_per_step=0, accepted are"),
        ({"heads_per_step": 4}, "heads_per_step=4, accepted are"),
        ({"precision": "float8"}, "precision is 'float8', accepted are float32, bfloat16"),
        ({"first": "Identity"}, "first is 'Identity', accepted are identity, learned"),
        ({"weights": (0.5, 0.5)}, r"weights=\[0.5, 0.5\], accepted are 3 numbers"),
        ({"weights": (1, 0, 0)}, r"weights=\[1, 0, 0\], accepted are"),
        ({"weights": (1, -1, 2)}, "accepted are 3 numbers >= 0"),
        ({"width": 0}, "width=0, accepted are whole numbers from 1 to 1048576"),
        ({"token_ids": np.array([], np.int64)}, "token_ids are not one or more ascending ids of 0 to"),
        ({"token_ids": np.array([3, 2])}, "token_ids are not one or more ascending"),
        ({"token_ids": np.array([-1, 2])}, "token_ids are not one or more ascending"),
        ({"token_ids": np.array([2, 10**6])}, "token_ids are not one or more ascending"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OutpaceError, match=message):
        run(marian(), tmp_path / "new", 3, **options)
    assert not (tmp_path / "new").exists()


def test_a_model_without_a_module_cannot_be_finetuned(tmp_path: Path) -> None:
    base = Seq2SeqBase(marian(), name="tiny")
    base.module = None
    with pytest.raises(OutpaceError, match=r"regime is 'finetuned', accepted for tiny are frozen$"):
        run(None, tmp_path, 3, base=base, regime="finetuned")


def own_outputs(target: Any, prompts: list[Any], count: int, drafter: Any = None) -> list[Generation]:
    requests = [Request(prompt, Sampling(), count) for prompt in prompts]
    ended: list[Generation] = whole(events(target, drafter or NoDraft(), Match(), requests))[1]
    return ended


def accepted(drafted: list[Generation], plain: list[Generation]) -> float:
    """Mean tokens per call of drafts that changed nothing."""
    assert [one.token_ids for one in drafted] == [one.token_ids for one in plain]
    tokens = sum(one.stats.completion_tokens - 1 for one in drafted)
    return tokens / sum(one.stats.target_calls for one in drafted)


def test_heads_learn_to_translate_ahead(tmp_path: Path) -> None:
    """32 sources with the model's own translations: what untrained heads, all head 1, do not know."""
    model = marian()
    target = HfSeq2SeqTarget(model, context_length=64)
    given = sources(model, [4] * 32)
    encoded = target.encode(*given.values())
    prompts = [Prompt([START_ID], source) for source in encoded]
    plain = own_outputs(target, prompts, 12)
    batch = {
        **given,
        "labels": torch.tensor([[*o.token_ids, *[NONE] * (12 - len(o.token_ids))] for o in plain]),
    }
    lengths = []
    for steps in (1, 150):
        plan = Plan(steps, lr=1e-2)
        folder = tmp_path / str(steps)
        run(model, folder, 0, make=lambda model, seed: batch, plan=plan, width=64, heads_per_step=2)
        drafter = Blockwise(target, path=str(folder), tree=Chain(length=2))
        lengths.append(accepted(own_outputs(target, prompts, 12, drafter), plain))
    assert lengths[0] < 1.4 and lengths[1] > 1.5 and lengths[1] > lengths[0] + 0.3, lengths


def test_heads_of_a_decoder_learn_too(tmp_path: Path) -> None:
    """By their batches as `outpace train` makes them for finetuning, but frozen."""
    model = tiny_model("gpt2", num_hidden_layers=1)
    target = HfCausalTarget(model, context_length=64)
    prompts = [[7 * number % 290, 3 + number] for number in range(16)]
    plain = own_outputs(target, prompts, 12)
    ids = torch.tensor([[*prompt, *one.token_ids] for prompt, one in zip(prompts, plain, strict=True)])
    labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=NONE)
    labels[:, 0] = NONE
    batch = {"input_ids": ids, "labels": labels}
    base = CausalBase(model, name="tiny gpt2")
    run(model, tmp_path, 0, make=lambda model, seed: batch, base=base, plan=Plan(150, lr=1e-2), width=64)
    drafter = Blockwise(target, path=str(tmp_path), tree=Chain(length=2))
    assert accepted(own_outputs(target, prompts, 12, drafter), plain) > 1.5
