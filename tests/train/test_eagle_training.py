"""Training of EAGLE layers: unrolled as drafts are, the loss by hand, texts by heart, the same bits again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.drafters.heads.eagle import Eagle  # noqa: E402
from outpace.engine.generate import events, result_of  # noqa: E402
from outpace.engine.request import Request  # noqa: E402
from outpace.heads.eagle import EagleConfig, EagleWeights, read_eagle  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.train import eagle as training  # noqa: E402
from outpace.train.eagle import EagleData, eagle_loss, train_eagle  # noqa: E402
from outpace.train.eagle_layers import EagleLayers  # noqa: E402
from outpace.train.features import FeatureFile, add_texts  # noqa: E402
from outpace.train.loop import Plan  # noqa: E402
from outpace.train.pieces import PieceByPiece  # noqa: E402
from outpace.train.texts import Texts  # noqa: E402
from outpace.trees.chain import Chain  # noqa: E402
from tests.eagle_heads import EagleTwin, eagle_config, random_eagle  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

TAPS = ("0", "1")
PROMPTS = [[n, 2 * n + 1, 90 - n][: 2 + n % 2] for n in range(3, 11)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", context_length=64, kv="f32")
    target.tap(*TAPS)
    return target


@pytest.fixture(scope="module")
def answers(target: Any) -> list[list[int]]:
    from outpace.drafters.none import NoDraft

    requests = [Request(prompt, Sampling(), 24) for prompt in PROMPTS]
    return [one.token_ids for one in result_of(events(target, NoDraft(), Match(), requests))]


def texts_of(target: Any, folder: Path, answers: list[list[int]]) -> Texts:
    """States of whole texts, from their second token on."""
    file = FeatureFile(folder, 3 * target.hidden_size)
    pairs = zip(PROMPTS, answers, strict=True)
    add_texts(file, target, [([*prompt, *answer], 1) for prompt, answer in pairs], taps=(*TAPS, "final"))
    return Texts(file.read(), np.array([len(prompt) - 1 for prompt in PROMPTS]))


def config_of(target: Any, ids: np.ndarray, **options: Any) -> EagleConfig:
    more = {"fc_norm": True, "norm_before_residual": True, "norm_output": True} | options
    return eagle_config(target, taps=TAPS, num_tokens=len(ids), **more)


def drafted_ids(answers: list[list[int]]) -> np.ndarray:
    return np.unique(np.concatenate(answers)).astype(np.int32)


def loaded(heads: EagleWeights) -> EagleLayers:
    """These weights in torch."""
    layers = EagleLayers(heads.config)
    layers.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in heads.tensors.items()})
    return layers.double()


@pytest.mark.parametrize("norm_output", [False, True])
@pytest.mark.parametrize("norm_before_residual", [False, True])
def test_unrolled_steps_are_those_of_a_draft(
    target: Any, norm_output: bool, norm_before_residual: bool
) -> None:
    """Each draft, by numpy, reads a text up to its root and then its own outputs."""
    ids = np.arange(40, dtype=np.int32)
    config = config_of(target, ids, norm_output=norm_output, norm_before_residual=norm_before_residual)
    heads = random_eagle(config)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, target.vocab_size, 7)
    states = rng.normal(size=(7, 2 * target.hidden_size)).astype(np.float32)
    embeddings = target.input_rows(tokens)
    embedded, seen = (torch.from_numpy(x[None].astype(np.float64)) for x in (embeddings, states))
    with torch.no_grad():
        layers = loaded(heads)
        steps = layers.unrolled(embedded, seen, 4)
        logits = [layers.lm_head(step)[0].numpy() for step in steps]
    twin = EagleTwin(heads, target.input_rows(np.arange(target.vocab_size)))
    for root in range(7):
        cache: list[Any] = []
        for token, state in zip(tokens[: root + 1], states, strict=False):
            output = twin.output(cache, int(token), twin.feature(state))
        for step in range(4):
            if root + step == 7:
                break
            if step:
                output = twin.output(cache, int(tokens[root + step]), twin.behind(output))
            np.testing.assert_allclose(logits[step][root + step], twin.logits(output), rtol=1e-5, atol=1e-5)


def test_the_loss_is_that_of_the_answers_drafted_tokens(
    target: Any, answers: list[list[int]], tmp_path: Path
) -> None:
    """By hand: which tokens count at which step, what the model says there, and the weights of steps."""
    ids = drafted_ids(answers)[1:]  # one of them is never drafted
    texts, heads = (
        texts_of(target, tmp_path, answers),
        random_eagle(config_of(target, ids), token_ids=ids.tolist()),
    )
    data, layers = EagleData(target, texts, ids, len(TAPS)), loaded(heads).float()
    with torch.no_grad():
        loss = eagle_loss(layers, data.batch(range(len(PROMPTS))), data.output, 3)
        expected, count = 0.0, 0
        output = target.output_rows(ids).astype(np.float64)
        for step, weight in enumerate((1 / 2.44, 0.8 / 2.44, 0.64 / 2.44)):
            parts = []
            for number, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
                text = [*prompt, *answer]
                start = 0 if number == 0 else int(texts.features.ends[number - 1])
                states = np.array(texts.features.states[start : start + len(text) - 1], np.float32)
                wide = 2 * target.hidden_size
                read = [target.input_rows(np.array(text[1:])), states[:, :wide]]
                embedded, seen = (torch.from_numpy(x[None]) for x in read)
                steps = layers.unrolled(embedded, seen, 3)
                logits = layers.lm_head(steps[step])[0].double().log_softmax(-1).numpy()
                for at in range(len(prompt), len(text)):  # of the token that is said
                    path = text[at - step : at + 1]
                    if at - step < len(prompt) or not set(path) <= set(ids.tolist()):
                        continue
                    said = output @ states[at - 1, wide:].astype(np.float64)
                    law = np.exp(said - said.max()) / np.exp(said - said.max()).sum()
                    entry = at - 2  # of the token before, in entries that begin with the second token
                    ours = logits[entry]
                    parts.append(-(law @ ours + ours[ids.tolist().index(text[at])]) / 2)
            expected += weight * float(np.mean(parts))
            count += len(parts)
    assert loss.num_tokens == count > 30
    np.testing.assert_allclose(float(loss.value), expected, rtol=1e-4)


@pytest.mark.parametrize("rows", [256, 7])
def test_the_loss_and_its_gradients_are_those_of_whole_logits(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """In pieces, against autograd's steps in float64."""
    monkeypatch.setattr("outpace.train.pieces.ROWS", rows)
    random = torch.Generator().manual_seed(0)
    matrix, output = (torch.randn(11, 6, generator=random) for _ in range(2))
    final = torch.randn(30, 6, generator=random)
    steps = [torch.randn(30, 6, generator=random, requires_grad=True) for _ in range(3)]
    labels = torch.randint(0, 11, (30,), generator=random)
    weights = torch.rand(3, 30, generator=random)
    weights[:, ::4] = 0  # no answer's
    weights[1:, 5:20], weights[2] = 0, 0  # what fewer drafts reach, and none
    matrix.requires_grad_()
    found = 2 * PieceByPiece.apply(matrix, output, final, labels, weights, "float32", *steps)
    found.backward()
    leaves = [one.detach().double().requires_grad_() for one in (matrix, *steps)]
    laws = (final.double() @ output.double().T).softmax(-1)
    expected = torch.zeros((), dtype=torch.float64)
    for step, each in zip(leaves[1:], weights.double(), strict=True):
        said = (step @ leaves[0].T).log_softmax(-1)
        expected = expected - (each * ((laws * said).sum(-1) + said[torch.arange(30), labels]) / 2).sum()
    (2 * expected).backward()
    np.testing.assert_allclose(found.detach(), 2 * expected.detach(), rtol=1e-5)
    for one, leaf in zip((matrix, *steps), leaves, strict=True):
        np.testing.assert_allclose(one.grad, leaf.grad, atol=1e-5)


def test_it_begins_no_worse_than_one_that_knows_nothing(
    target: Any, answers: list[list[int]], tmp_path: Path
) -> None:
    """At every step of a draft, though of the states at "final" some numbers are far larger than others."""
    ids, texts = drafted_ids(answers), texts_of(target, tmp_path, answers)
    wide = texts.features.states.copy()
    wide[:, 2 * target.hidden_size + 3] = 20 + wide[:, 3]  # of one sign, as in trained models
    texts = Texts(replace(texts.features, states=wide), texts.firsts)
    torch.manual_seed(0)
    data, layers = EagleData(target, texts, ids, len(TAPS)), EagleLayers(config_of(target, ids))
    training.begin_near_the_model(layers, data)
    with torch.no_grad():
        loss = eagle_loss(layers, data.batch(range(len(PROMPTS))), data.output, 4)
    assert float(loss.value) < np.log(len(ids))


def test_it_learns_texts_by_heart_and_drafts_them(
    target: Any, answers: list[list[int]], tmp_path: Path
) -> None:
    ids = drafted_ids(answers)
    texts = texts_of(target, tmp_path / "states", answers)
    config = config_of(target, ids)
    lengths = []
    for steps in (1, 40):
        folder = tmp_path / str(steps)
        train_eagle(target, texts, folder, config, ids, batch=120, plan=Plan(steps=steps, lr=1e-2))
        drafter = Eagle(target, path=str(folder), tree=Chain(length=4))
        requests = [Request(prompt, Sampling(), 24) for prompt in PROMPTS]
        results = result_of(events(target, drafter, Match(), requests))
        assert [one.token_ids for one in results] == answers
        lengths.append(np.mean([one.stats.mean_accepted_length for one in results]))
    assert lengths[0] < 3 < 3.6 < lengths[1], lengths


def test_a_run_that_was_stopped_gives_the_same_bits(
    target: Any, answers: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, texts = drafted_ids(answers), texts_of(target, tmp_path / "states", answers)
    config, plan = config_of(target, ids), Plan(steps=6, lr=1e-3, checkpoint_s=0)

    def run(folder: Path) -> None:
        train_eagle(target, texts, folder, config, ids, batch=40, plan=plan)

    run(tmp_path / "whole")
    real, steps = training.eagle_loss, []

    def stopped(*args: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training, "eagle_loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    run(tmp_path / "parts")
    assert len(steps) == 4 + 3
    whole, parts = (read_eagle(tmp_path / name) for name in ("whole", "parts"))
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(parts.tensors[name], tensor)
    run(tmp_path / "parts")
    assert len(steps) == 7  # it is done
    with pytest.raises(OutpaceError, match="holds a run with batch=40"):
        train_eagle(target, texts, tmp_path / "whole", config, ids, batch=41, plan=plan)


def test_states_of_other_taps_are_refused(target: Any, answers: list[list[int]], tmp_path: Path) -> None:
    ids, texts = drafted_ids(answers), texts_of(target, tmp_path / "states", answers)
    config = eagle_config(target, taps=("0",), num_tokens=len(ids), fc_norm=True)
    with pytest.raises(OutpaceError, match="the states are 192 wide, accepted are 128"):
        train_eagle(target, texts, tmp_path / "heads", config, ids, plan=Plan(steps=1))
