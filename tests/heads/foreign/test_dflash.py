"""DFlash and DSpark layers of others: taken in with all their bits, they draft as their equations say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import FormatError, OutpaceError  # noqa: E402
from outpace.heads.dflash import OUTPUT, DFlashConfig, DFlashWeights, read_dflash  # noqa: E402
from outpace.heads.dflash_pass import DFlashPass  # noqa: E402
from outpace.heads.foreign.doctor import examine  # noqa: E402
from outpace.heads.foreign.taking import take_in  # noqa: E402
from outpace.targets.table import TableTarget  # noqa: E402
from tests.dflash_heads import DFlashTwin  # noqa: E402
from tests.foreign_heads import (  # noqa: E402
    DRAFTED,
    VOCAB,
    WIDTH,
    bits,
    bits_of,
    config_in,
    write_block_speculators,
    write_dflash,
    write_dspark,
)
from tests.heads.foreign.conftest import Tiny  # noqa: E402

SORTED = tuple(sorted(DRAFTED))
EVERY = tuple(range(VOCAB))
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SLIDING: dict[str, Any] = {"windows": (4, 0), "causal": (True, False)}
BOTH_WAYS: dict[str, Any] = {"windows": (4, 0), "causal": (False, False)}
Write = Callable[..., tuple[DFlashConfig, dict[str, Any]]]
Change = Any


def speculators(**options: Any) -> Write:
    return lambda folder, **more: write_block_speculators(folder, **options | more)


def with_field(**fields: Any) -> Change:
    return lambda config, tensors: config.update(fields)


def with_layer(**fields: Any) -> Change:
    return lambda config, tensors: config["transformer_layer_config"].update(fields)


def in_dflash_config(config: dict[str, Any], tensors: dict[str, Any]) -> None:
    config["dflash_config"]["block_size"] = config.pop("block_size")


# Name -> (how it is written, tokens by row; () for all, by the target's matrix).
LAYOUTS: dict[str, tuple[Write, tuple[int, ...]]] = {
    "dflash": (write_dflash, ()),
    "dflash-inner": (lambda folder: write_dflash(folder, change=in_dflash_config, prefix="model."), ()),
    "dflash-sliding": (lambda folder: write_dflash(folder, dtype=torch.float32, **SLIDING), ()),
    "dflash-not-causal": (
        lambda folder: write_dflash(folder, change=with_field(is_causal=False), **BOTH_WAYS),
        (),
    ),
    "dflash-causal": (
        lambda folder: write_dflash(folder, change=with_field(is_causal=True), causal=(True, True)),
        (),
    ),
    "dspark": (write_dspark, ()),
    "dspark-gated": (lambda folder: write_dspark(folder, markov="gated", qkv_bias=True), ()),
    "dspark-rnn": (lambda folder: write_dspark(folder, markov="rnn", rope_scaling=YARN, head_dim=32), ()),
    "dspark-plain": (lambda folder: write_dspark(folder, markov="none", rank=0), ()),
    "dspark-behind": (
        lambda folder: write_dspark(folder, from_root=False, change=with_field(sample_from_anchor=False)),
        (),
    ),
    "speculators": (speculators(), SORTED),
    "speculators-all": (speculators(ids=EVERY), ()),
    "speculators-shuffled": (speculators(ids=DRAFTED, dtype=torch.float16), DRAFTED),
    "speculators-sliding": (speculators(**SLIDING), SORTED),
    "speculators-both-ways": (speculators(said={"sliding_window_non_causal": True}, **BOTH_WAYS), SORTED),
    "speculators-anchor": (speculators(said={"sample_from_anchor": True}, from_root=True), SORTED),
    "speculators-dspark": (speculators(dspark=True, ids=DRAFTED), DRAFTED),
    "speculators-dspark-all": (speculators(dspark=True, ids=EVERY, markov="rnn"), ()),
}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.targets.native_layer.KIND", "f32")


def taken(tiny: Tiny, folder: Path, output: Path, **options: Any) -> Any:
    return take_in(folder, tiny.target, "tiny", output, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_keep_their_bits_and_fields_their_meaning(tiny: Tiny, tmp_path: Path, layout: str) -> None:
    write, drafted = LAYOUTS[layout]
    config, tensors = write(tmp_path / "theirs")
    found = taken(tiny, tmp_path / "theirs", tmp_path / "ours")
    assert found.method == "dflash" and examine(tmp_path / "ours", tiny.target).is_well
    ours = read_dflash(tmp_path / "ours")
    named = {"target": tiny.target.fingerprint(), "model": "tiny", "num_tokens": len(drafted)}
    assert ours.config == replace(config, **named)
    expected = {name: tensor for name, tensor in tensors.items() if name not in ("d2t", "t2d")}
    if drafted:
        order = torch.tensor(np.argsort(drafted))
        for name in ("lm_head.weight", OUTPUT):
            if name in expected:
                expected[name] = expected[name][order].contiguous()
        assert ours.token_ids is not None and ours.token_ids.tolist() == sorted(drafted)
    found_bits = bits(tmp_path / "ours")
    assert {name: found_bits[name] for name in expected} == bits_of(expected)
    assert found_bits.keys() - expected.keys() == ({"token_ids"} if drafted else set())


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_the_equations(tiny: Tiny, tmp_path: Path, layout: str) -> None:
    """By their tensors, and from states of torch, whose hidden_states[i + 1] is what layer i gives."""
    write, drafted = LAYOUTS[layout]
    config, tensors = write(tmp_path / "theirs")
    taken(tiny, tmp_path / "theirs", tmp_path / "ours")
    text, root = [5, 17, 3, 250, 9], 20
    with torch.no_grad():
        run = tiny.model.model(torch.tensor([text]), output_hidden_states=True)
    states = np.concatenate([run.hidden_states[int(tap) + 1][0].numpy() for tap in config.taps], axis=1)
    arrays = {name: tensors[name].float().numpy() for name in config.shapes()}
    # The rows of their matrices are in their order.
    weights = DFlashWeights(config, arrays, np.array(drafted, np.int32) if drafted else None)
    embeddings = tiny.model.get_input_embeddings().weight.detach().numpy()
    twin = DFlashTwin(weights, embeddings, tiny.model.get_output_embeddings().weight.detach().numpy())
    layers = DFlashPass(tiny.target, tmp_path / "ours")
    [block] = layers([layers.open()], [layers.features(states)], [root], [layers.length])
    rows = np.argsort(drafted) if drafted else slice(None)
    order = None
    path: list[int] = []
    for level, token in enumerate([root, 9, 77][: layers.length]):
        path += [token] if level else []
        order = block.follow(order, token, level)
        wanted = twin.laws(states, root, path)
        np.testing.assert_allclose(block.law(level, order), wanted[rows], rtol=1e-3, atol=5e-3)
    wrong = twin.laws(np.roll(states, 1, axis=0), root)
    assert np.abs(wrong - twin.laws(states, root)).max() > 0.02


def test_facts(tiny: Tiny, tmp_path: Path) -> None:
    write_dspark(tmp_path / "a", markov="rnn")
    report = examine(tmp_path / "a", tiny.target)
    facts = dict(report.facts)
    assert report.is_well and facts["what"] == "DSpark layers, original layout"
    assert facts["states"] == "the outputs of the layers 1, 4, the first 0" and facts["layers"] == "2"
    assert facts["block"] == "4 drafted tokens, the mask is token 299"
    assert facts["Markov head"] == "rnn, of rank 16" and facts["drafted tokens"] == "all"
    notes = [text for kind, text in report.facts if kind == "note"]
    assert notes == [
        "embed_tokens.weight, lm_head.weight: the target's own, of 300 tokens, not read",
        "confidence_head.proj.bias, confidence_head.proj.weight: a confidence head, not read; drafts end by "
        "probabilities",
    ]
    write_block_speculators(tmp_path / "b")
    facts = dict(examine(tmp_path / "b").facts)
    assert facts["what"] == "DFlash layers, speculators layout" and facts["target"] == "org/tiny"
    assert facts["block"].startswith("3 drafted tokens") and facts["drafted tokens"] == "8"
    assert facts["Markov head"] == "none" and facts["vocabulary"] == "300 tokens"


def test_targets_own_tensors_are_left_out(tiny: Tiny, tmp_path: Path) -> None:
    def change(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name in ("embed_tokens.weight", "verifier_norm.weight", "verifier_lm_head.weight"):
            tensors[name] = torch.ones(VOCAB, WIDTH)
        for number in range(2):
            tensors[f"layers.{number}.self_attn.o_proj.bias"] = torch.zeros(WIDTH)
        if config["draft_vocab_size"] == VOCAB:
            tensors["lm_head.weight"] = torch.ones(VOCAB, WIDTH)
            tensors["d2t"] = torch.zeros(VOCAB, dtype=torch.int64)
            tensors["t2d"] = torch.ones(VOCAB, dtype=torch.bool)

    for name, ids in (("few", SORTED), ("all", EVERY)):
        write_block_speculators(tmp_path / name, ids=ids, change=change)
        layout = taken(tiny, tmp_path / name, tmp_path / f"{name} taken")
        names = bits(tmp_path / f"{name} taken").keys()
        assert not [one for one in names if "embed" in one or "verifier" in one or "bias" in one]
        assert ("lm_head.weight" in names) == ("token_ids" in names) == (name == "few")
        assert [note.rpartition(": ")[2] for note in layout.notes] == [
            "the target's own, of 300 tokens, not read", "zeros, not read"
        ]  # fmt: skip


def test_all_tokens_in_another_order_have_a_matrix_of_their_own(tiny: Tiny, tmp_path: Path) -> None:
    ids = [*range(10, VOCAB), *range(10)]

    def change(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = torch.arange(VOCAB)[:, None].expand(VOCAB, WIDTH).float().contiguous()
        tensors["d2t"] = torch.tensor(ids) - torch.arange(VOCAB)

    write_block_speculators(tmp_path / "a", ids=EVERY, change=change)
    taken(tiny, tmp_path / "a", tmp_path / "b")
    ours = read_dflash(tmp_path / "b")
    assert ours.config.num_tokens == VOCAB and ours.token_ids is not None
    assert ours.tensors["lm_head.weight"][:, 0].astype(int)[:3].tolist() == [290, 291, 292]


NAN = float("nan")
NORM, MLP = "hidden_norm.weight", "layers.1.mlp.up_proj.weight"
LAYER_WRITERS: dict[str, Write] = {
    "dflash": write_dflash,
    "dspark": write_dspark,
    "rnn": lambda folder, **more: write_dspark(folder, markov="rnn", **more),
    "speculators": write_block_speculators,
    "both": speculators(dspark=True),
    "all": speculators(ids=EVERY),
}


def without(name: str) -> Change:
    return lambda config, tensors: tensors.pop(name)


def with_tensor(name: str, make: Callable[[Any], Any]) -> Change:
    def change(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = make(tensors.get(name)).contiguous()

    return change


def inner(**fields: Any) -> Change:
    return lambda config, tensors: config["dflash_config"].update(fields)


def set_last(tensor: Any, value: float) -> Any:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


@pytest.mark.parametrize(
    ("layout", "change", "kind", "message"),
    [
        ("dflash", without(NORM), "missing", f"{NORM}, floats [64]"),
        ("dflash", without(MLP), "missing", f"{MLP}, floats [48, 64]"),
        ("dflash", with_tensor(MLP, lambda t: t.T), "wrong shape", f"{MLP} BF16[64, 48], expected floats"),
        ("dflash", with_tensor("extra", lambda t: torch.ones(2)), "nobody reads", "extra F32[2]"),
        ("dflash", with_tensor(MLP, lambda t: set_last(t, NAN)), "wrong values", MLP),
        ("dflash", with_field(num_hidden_layers=3, layer_types=None), "missing", "layers.2.self_attn.q_proj"),
        ("dflash", with_field(num_hidden_layers=1, layer_types=None), "nobody reads", "layers.1.self_attn"),
        ("dflash", with_field(num_hidden_layers=3), "wrong", "sliding_attention for each of 3 layers"),
        ("dflash", with_field(num_hidden_layers=65), "wrong", "accepted are whole numbers from 1 to 64"),
        ("dflash", with_field(layer_types=["full_attention", []]), "wrong", "accepted are full_attention or"),
        ("dflash", with_field(layer_types=None, use_sliding_window=True), "wrong", "layer_types is missing"),
        (
            "dflash",
            with_field(layer_types=["sliding_attention"] * 2),
            "wrong",
            "sliding_window is missing, accepted are whole numbers from 1",
        ),
        ("dflash", with_field(is_causal=1), "wrong", "is_causal is 1, accepted are true and false"),
        ("dflash", with_field(architectures=["FooDraft"], mask_token_id=299), "wrong", "are DFlashDr"),
        ("dflash", with_field(hidden_act="gelu"), "wrong", "hidden_act is 'gelu', accepted is silu or swish"),
        ("dflash", with_field(block_size=1), "wrong", "block_size is 1, accepted are whole numbers from 2"),
        ("dflash", with_field(block_size=129), "wrong", "accepted are whole numbers from 1 to 128"),
        ("dflash", inner(block_size=5), "wrong", "block_size is 4, accepted is what dflash_config has, 5"),
        ("dflash", inner(mask_token_id=300), "wrong", "are rows of the target's input embedding, pa"),
        ("dflash", inner(mask_token_id=-1), "wrong", "padding included: 0 to 299"),
        ("dflash", inner(mask_token_id=None), "wrong", "mask_token_id is missing"),
        ("dflash", inner(target_layer_ids=None), "wrong", "target_layer_ids is missing, accepted are"),
        ("dflash", inner(target_layer_ids=[-1, 4]), "wrong", "ascending numbers of layers, 0 or more"),
        ("dflash", inner(target_layer_ids=[4, 1]), "wrong", "are 1 to 16 ascending numbers of layers"),
        ("dflash", inner(target_layer_ids=[1]), "wrong shape", "fc.weight BF16[64, 128], expected floats"),
        ("dflash", with_field(dflash_config=3), "wrong", "dflash_config is 3, accepted is an object"),
        ("dflash", with_field(input_embedding_scale=2.0), "wrong", "input_embedding_scale is 2.0, accepted"),
        ("dflash", inner(output_multiplier=0.5), "wrong", "dflash_config.output_multiplier is 0.5, accepted"),
        ("dflash", with_field(final_logit_softcapping=30.0), "wrong", "capping is 30.0, accepted is null"),
        ("dflash", with_field(rope_parameters={"full_attention": {}}), "wrong", "one object for all layers"),
        ("dflash", with_field(rope_scaling={"type": "odd", "factor": 2}), "wrong", "rope scaling 'odd'"),
        ("dflash", with_tensor("lm_head.weight", lambda t: torch.ones(4, 64)), "nobody reads", "lm_head.w"),
        (
            "dflash",
            with_tensor("layers.0.self_attn.o_proj.bias", lambda t: torch.ones(64)),
            "nobody reads",
            "layers.0.self_attn.o_proj.bias F32[64]",
        ),
        ("dspark", with_field(markov_head_type="odd"), "wrong", "accepted are vanilla, gated, rnn"),
        ("dspark", with_field(markov_rank=-1), "wrong", "markov_rank is -1, accepted are whole numbers"),
        ("dspark", with_field(markov_rank=0), "nobody reads", "markov_head.markov_w1.weight"),
        ("dspark", with_field(markov_rank=8), "wrong shape", "expected floats [300, 8]"),
        ("dspark", with_field(markov_head_type="gated"), "missing", "markov_head.gate_proj.weight, floats"),
        ("dspark", with_field(sample_from_anchor=3), "wrong", "accepted are true and false"),
        ("rnn", without("markov_head.joint_proj.bias"), "missing", "joint_proj.bias, floats [48]"),
        ("both", without("markov_head.markov_w2.weight"), "missing", "markov_w2.weight, floats [8, 16]"),
        ("both", with_field(projector_type="mlp"), "wrong", "projector_type is 'mlp', accepted is dflash or"),
        ("speculators", without("d2t"), "wrong tokens", "d2t is missing, expected I64[8]"),
        ("speculators", with_tensor("d2t", lambda t: t * 0 + 400), "wrong tokens", "drafted, accepted are"),
        ("speculators", with_tensor("d2t", lambda t: -torch.arange(8)), "wrong tokens", "drafted twice"),
        ("speculators", with_tensor("t2d", lambda t: ~t), "wrong tokens", "t2d and d2t name different"),
        ("speculators", without("lm_head.weight"), "missing", "lm_head.weight, floats [8, 64]"),
        ("speculators", with_field(draft_vocab_size=301), "wrong", "draft_vocab_size is 301, accepted are"),
        ("speculators", with_field(target_hidden_size=32), "wrong", "hidden_size is 32, accepted is 64"),
        ("speculators", with_layer(model_type="llama"), "wrong", "model_type is 'llama', accepted is qwen3"),
        ("speculators", with_layer(final_logit_softcapping=1.0), "wrong", "softcapping is 1.0, accepted is"),
        ("speculators", with_field(aux_hidden_state_layer_ids=[0, 3]), "wrong", "of layers, 1 or more"),
        ("speculators", with_field(aux_hidden_state_layer_ids=None), "wrong", "layer_ids is missing"),
        ("all", with_tensor("d2t", lambda t: torch.ones(3).long()), "wrong tokens", "d2t I64[3], expected"),
    ],
)  # fmt: skip
def test_every_fault_is_named(
    tiny: Tiny, tmp_path: Path, layout: str, change: Any, kind: str, message: str
) -> None:
    LAYER_WRITERS[layout](tmp_path / "a", change=change)
    report = examine(tmp_path / "a")
    assert not report.is_well
    said = [f"{one}: {text}" for one, text in report.faults]
    assert any(one.startswith(f"{kind}: ") and message in one for one in said), said
    with pytest.raises(OutpaceError) as raised:
        take_in(tmp_path / "a", tiny.target, "tiny", tmp_path / "b")
    assert "\n" not in str(raised.value) and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda f: write_dflash(f, taps=("1", "8")),
            "the output of layer 8, the model has the layers 0 to 7",
        ),
        (speculators(taps=("1", "9")), "the output of layer 9, the model has the layers 0 to 7"),
        (
            lambda f: write_dflash(f, change=with_field(vocab_size=400)),
            "a vocabulary of 400 tokens, the model has 300",
        ),
        (
            lambda f: write_dflash(f, hidden_size=32),
            "states of width 32, those of the model have 64",
        ),
    ],
)
def test_other_models_are_refused(tiny: Tiny, tmp_path: Path, write: Any, message: str) -> None:
    write(tmp_path / "a")
    assert examine(tmp_path / "a").is_well
    assert any(message in text for _, text in examine(tmp_path / "a", tiny.target).unfit or ())
    with pytest.raises(FormatError, match=message):
        taken(tiny, tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (with_tensor("layers.0.attention_conv.weight", lambda t: torch.ones(2)), "DFlash2 layers"),
        (with_tensor("candidate_selector.weight", lambda t: torch.ones(2)), "DFlash2 layers"),
        (with_field(architectures=["DFlash2DraftModel"]), "DFlash2 layers"),
        (with_field(projector_type="domino"), "Domino layers"),
    ],
)
def test_newer_kinds_are_named_and_not_run(tiny: Tiny, tmp_path: Path, change: Any, what: str) -> None:
    for write in (write_dflash, write_block_speculators):
        folder = tmp_path / write.__name__
        write(folder, change=change)
        report = examine(folder)
        assert report.facts == [("what", what)]
        assert report.faults == [("not run", "no drafter of Outpace runs it")]
        with pytest.raises(
            FormatError, match=f"holds {what}, which no drafter of Outpace runs; accepted are"
        ):
            taken(tiny, folder, tmp_path / "b")


def test_a_target_without_embeddings_is_refused(tmp_path: Path) -> None:
    write_dflash(tmp_path / "a")
    with pytest.raises(OutpaceError):
        take_in(tmp_path / "a", TableTarget.random(vocab_size=VOCAB, order=1), "table", tmp_path / "b")


def test_config_of_what_was_taken_in(tiny: Tiny, tmp_path: Path) -> None:
    write_dspark(tmp_path / "a")
    taken(tiny, tmp_path / "a", tmp_path / "b")
    found = config_in(tmp_path / "b")
    assert found["method"] == "dflash" and found["from_root"] and found["causal"] == [False, False]
