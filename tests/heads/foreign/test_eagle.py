"""EAGLE layers of others: they draft here as they do there, and come back as they went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import FormatError, OutpaceError  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.heads.eagle import EagleConfig, EagleWeights, read_eagle, write_eagle  # noqa: E402
from outpace.heads.eagle_layer import EagleLayer  # noqa: E402
from outpace.heads.foreign.eagle import usual_taps  # noqa: E402
from outpace.heads.foreign.giving import give_out  # noqa: E402
from outpace.heads.foreign.taking import take_in  # noqa: E402
from tests.eagle_heads import EagleTwin, eagle_config, random_eagle, write_random_eagle  # noqa: E402
from tests.foreign_heads import (  # noqa: E402
    BF16,
    DRAFTED,
    VOCAB,
    bits,
    bits_of,
    config_in,
    write_eagle1,
    write_eagle3,
    write_speculators,
)
from tests.heads.foreign.conftest import LAYERS, Tiny  # noqa: E402
from tests.rows import on, opened  # noqa: E402

TEXT = [5, 17, 3, 250, 9]
EVERY: dict[str, Any] = {
    "norm_before_fc": True,
    "fc_norm": True,
    "norm_before_residual": True,
    "norm_output": True,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
Write = Callable[[Path], tuple[EagleConfig, dict[str, Any]]]

# Name -> (how it is written, layers whose input is read, tokens by row).
LAYOUTS: dict[str, tuple[Write, tuple[int, ...], tuple[int, ...]]] = {
    "eagle1": (write_eagle1, (), ()),
    "eagle1-bias": (lambda folder: write_eagle1(folder, bias=True, dtype=torch.float32), (), ()),
    "eagle3": (write_eagle3, (2, LAYERS // 2, LAYERS - 3), DRAFTED),
    "eagle3-named": (lambda folder: write_eagle3(folder, layers=[1, 3, 8]), (1, 3, 8), DRAFTED),
    "eagle3-all": (
        lambda folder: write_eagle3(folder, ids=range(VOCAB)),
        (2, LAYERS // 2, LAYERS - 3),
        tuple(range(VOCAB)),
    ),
    "speculators": (write_speculators, (2, 4, 5), tuple(sorted(DRAFTED))),
    "speculators-norms": (
        lambda folder: write_speculators(folder, **EVERY),
        (2, 4, 5),
        tuple(sorted(DRAFTED)),
    ),
    "speculators-qwen": (
        lambda folder: write_speculators(
            folder, ids=DRAFTED, layers=[1, 7, 8], qk_norm=True, qkv_bias=True, num_kv_heads=4, rope_theta=1e6
        ),
        (1, 7, 8),
        DRAFTED,
    ),
    "speculators-yarn": (
        lambda folder: write_speculators(folder, dtype=torch.float16, rope_scaling=YARN, head_dim=32),
        (2, 4, 5),
        tuple(sorted(DRAFTED)),
    ),
}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.targets.native_layer.KIND", "f32")


def taken(tiny: Tiny, folder: Path, output: Path, **options: Any) -> Any:
    return take_in(folder, tiny.target, "tiny", output, **options)


def states_at(target: Any, taps: tuple[str, ...]) -> np.ndarray:
    """f32[n, T * D] behind the tokens of TEXT, by the native engine."""
    target.tap(*taps)
    rows, first = opened(target, [TEXT[:1]])
    parts = [[first.hidden(tap) for tap in taps]]
    rest = target.score(on(rows, [TokenTree.chain(TEXT[1], TEXT[2:])]))
    parts.append([rest.hidden(tap) for tap in taps])
    target.free(rows)
    return np.concatenate([np.concatenate(one, axis=1) for one in parts])


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_the_equations(tiny: Tiny, tmp_path: Path, layout: str) -> None:
    """States come from torch by their own convention: hidden_states[i] is what layer i reads."""
    write, layers, drafted = LAYOUTS[layout]
    config, tensors = write(tmp_path / "theirs")
    taken(tiny, tmp_path / "theirs", tmp_path / "ours")
    layer = EagleLayer(tiny.target, tmp_path / "ours")

    with torch.no_grad():
        run = tiny.model.model(torch.tensor([TEXT]), output_hidden_states=True)
    # The last of `hidden_states` is behind the final norm; layer 8 of 8 would read what is before it.
    before_norm: list[Any] = []
    hook = tiny.model.model.layers[-1].register_forward_hook(
        lambda module, args, output: before_norm.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        tiny.model.model(torch.tensor([TEXT]))
    hook.remove()
    inputs = [*run.hidden_states[:LAYERS], before_norm[0].reshape(1, len(TEXT), -1)]
    states = (
        np.concatenate([inputs[i][0].numpy() for i in layers], axis=1)
        if layers
        else run.last_hidden_state[0].numpy()
    )
    target = tiny.target
    np.testing.assert_allclose(states_at(target, layer.config.taps), states, rtol=1e-3, atol=1e-3)

    named = {name: tensors[name].float().numpy() for name in config.shapes()}
    twin = EagleTwin(
        EagleWeights(config, named, np.array(drafted) if drafted else None),
        target.input_rows(np.arange(VOCAB)),
        target.output_rows(),
    )
    features = layer.features(states)
    tokens = [7, 3, 3, 200, 9]
    row = layer.rows.open()
    outputs = layer.rows.score([row], [0, 5], range(-1, 4), *layer.inputs(tokens, features))
    cache: list[Any] = []
    wanted = [twin.output(cache, token, twin.feature(one)) for token, one in zip(tokens, states, strict=True)]
    logits = layer.logits(outputs)
    found = logits[:, list(drafted)] if drafted else logits
    np.testing.assert_allclose(found, [twin.logits(one) for one in wanted], rtol=1e-3, atol=5e-3)
    np.testing.assert_allclose(
        layer.behind(outputs), [twin.behind(one) for one in wanted], rtol=1e-3, atol=5e-3
    )
    layer.rows.free(row)


@pytest.mark.parametrize("dtype", [BF16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "options", [{}, EVERY, {"qk_norm": True, "qkv_bias": True}, {"ids": range(VOCAB)}], ids=str
)
def test_speculators_come_back_bit_by_bit(
    tiny: Tiny, tmp_path: Path, dtype: Any, options: dict[str, Any]
) -> None:
    _, tensors = write_speculators(tmp_path / "a", dtype=dtype, **options)
    taken(tiny, tmp_path / "a", tmp_path / "b")
    assert (
        give_out(tmp_path / "b", tmp_path / "c", target_name="org/tiny").what
        == "EAGLE-3 layer, speculators layout"
    )
    assert bits(tmp_path / "c") == bits_of(tensors)
    theirs, again = config_in(tmp_path / "a"), config_in(tmp_path / "c")
    for name in theirs.keys() - {"speculators_config", "transformer_layer_config"}:
        assert again[name] == theirs[name], name
    layer = theirs["transformer_layer_config"]
    for name in layer.keys() - {"architectures"}:
        assert again["transformer_layer_config"][name] == layer[name], name
    assert again["speculators_config"]["verifier"]["name_or_path"] == "org/tiny"
    assert again["speculators_config"]["proposal_methods"][0]["proposal_type"] == "greedy"


def test_an_original_goes_out_as_speculators(tiny: Tiny, tmp_path: Path) -> None:
    """Its rows in the order of the tokens, with offsets and a mask."""
    _, layer = write_eagle3(tmp_path / "a")
    taken(tiny, tmp_path / "a", tmp_path / "b")
    give_out(tmp_path / "b", tmp_path / "c")
    order = sorted(range(len(DRAFTED)), key=lambda row: DRAFTED[row])
    ids = sorted(DRAFTED)
    mask = torch.zeros(VOCAB, dtype=torch.bool)
    mask[ids] = True
    offsets = torch.tensor([token - row for row, token in enumerate(ids)])
    wanted = layer | {"lm_head.weight": layer["lm_head.weight"][order], "d2t": offsets, "t2d": mask}
    assert bits(tmp_path / "c") == bits_of(wanted)
    assert config_in(tmp_path / "c")["eagle_aux_hidden_state_layer_ids"] == [2, 4, 5]


@pytest.mark.parametrize("bias", [False, True])
def test_first_generation_comes_back_bit_by_bit(tiny: Tiny, tmp_path: Path, bias: bool) -> None:
    _, tensors = write_eagle1(tmp_path / "a", bias=bias)
    layout = taken(tiny, tmp_path / "a", tmp_path / "b")
    assert layout.notes == ("embed_tokens.weight: the target's own, not read",)
    assert give_out(tmp_path / "b", tmp_path / "c").what == "EAGLE-1 or 2 layer, original layout"
    del tensors["embed_tokens.weight"]
    assert bits(tmp_path / "c") == bits_of(tensors)
    theirs, again = config_in(tmp_path / "a"), config_in(tmp_path / "c")
    assert {name: again[name] for name in theirs} == theirs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"generation": "eagle"},
        {"generation": "eagle", "fc_bias": True, "qkv_bias": True},
        {"qkv_bias": True, "qk_norm": True, **EVERY},
        {"rope_scaling": YARN, "head_dim": 32},
    ],
    ids=str,
)
def test_ours_come_back_bit_by_bit(tiny: Tiny, tmp_path: Path, options: dict[str, Any]) -> None:
    options = {"vocab_size": VOCAB, "taps": ("1", "3", "7"), **options}
    if options.get("generation") == "eagle":
        options["taps"] = ("final",)
    heads = write_random_eagle(tmp_path / "a", tiny.target, **options)
    give_out(tmp_path / "a", tmp_path / "b")
    taken(tiny, tmp_path / "b", tmp_path / "c")
    assert bits(tmp_path / "c") == bits(tmp_path / "a")
    assert read_eagle(tmp_path / "c").config == replace(heads.config, model="tiny")


@pytest.mark.parametrize("taps", [("1", "3", "4"), ("3",), ("1", "2", "3", "4")], ids=len)
def test_how_many_states_are_read_is_said_where_they_are_not_three(
    tiny: Tiny, tmp_path: Path, taps: tuple[str, ...]
) -> None:
    """vLLM counts no ids: a layer of two taps did not load there before."""
    write_random_eagle(tmp_path / "a", tiny.target, vocab_size=VOCAB, taps=taps)
    give_out(tmp_path / "a", tmp_path / "b")
    layer = config_in(tmp_path / "b")["transformer_layer_config"]
    assert layer.get("num_aux_hidden_states", 3) == len(taps)
    assert ("num_aux_hidden_states" in layer) == (len(taps) != 3)


def test_prefixes_and_old_buffers(tiny: Tiny, tmp_path: Path) -> None:
    def prefixed(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[f"model.{name}"] = tensors.pop(name)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)

    write_eagle1(tmp_path / "plain")
    write_eagle1(tmp_path / "prefixed", change=prefixed)
    for name in ("plain", "prefixed"):
        taken(tiny, tmp_path / name, tmp_path / f"{name}-ours")
    assert bits(tmp_path / "plain-ours") == bits(tmp_path / "prefixed-ours")


def test_the_newer_place_of_the_rotary_base(tiny: Tiny, tmp_path: Path) -> None:
    def newer(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        layer = config["transformer_layer_config"]
        del layer["rope_theta"], layer["rope_scaling"]
        layer["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}

    write_speculators(tmp_path / "a", change=newer)
    taken(tiny, tmp_path / "a", tmp_path / "b")
    config = read_eagle(tmp_path / "b").config
    assert config.rope_theta == 5e5 and config.rope_scaling is None


def test_pickles_are_read_on_demand(tiny: Tiny, tmp_path: Path) -> None:
    _, tensors = write_eagle1(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "a" / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"pytorch_model\.bin is a pickle.*--allow-pickle"):
        taken(tiny, tmp_path / "a", tmp_path / "b")
    taken(tiny, tmp_path / "a", tmp_path / "b", allow_pickle=True)
    del tensors["embed_tokens.weight"]
    assert bits(tmp_path / "b") == bits_of(tensors)


class Trap:
    """What a pickle would run."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Trap, "ran", True)


@pytest.mark.parametrize(
    "made",
    [Trap(), [1], {}, {"fc.weight": 3}, {"fc.weight": Trap()}, {"x": torch.zeros(2, 2).to_sparse()}],
    ids=["trap", "list", "empty", "number", "trap within", "sparse"],
)
def test_a_pickle_runs_nothing(tiny: Tiny, tmp_path: Path, made: Any) -> None:
    write_eagle1(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    path = tmp_path / "a" / "pytorch_model.bin"
    torch.save(made, path)
    for data in (path.read_bytes(), path.read_bytes()[:-9], b"", b"\x80\x04."):
        path.write_bytes(data)
        with pytest.raises(FormatError) as raised:
            taken(tiny, tmp_path / "a", tmp_path / "b", allow_pickle=True)
        assert "pytorch_model.bin" in str(raised.value) and "\n" not in str(raised.value)
    assert not Trap.ran and not (tmp_path / "b").exists()


def test_usual_taps_are_what_layers_read() -> None:
    """Layer i reads the output of layer i - 1."""
    for layers in (8, 32, 40):
        assert usual_taps(layers) == tuple(str(one - 1) for one in (2, layers // 2, layers - 3))
    with pytest.raises(FormatError, match="the model has 6; accepted are 7 layers or more"):
        usual_taps(6)


def test_what_others_cannot_say_does_not_go_out(tiny: Tiny, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"taps": ("1", "3", "4"), "vocab_size": VOCAB}

    def refused(message: str, **options: Any) -> None:
        config = eagle_config(tiny.target, **fields | options)
        write_eagle(tmp_path / "a", random_eagle(config))
        with pytest.raises(OutpaceError, match=message):
            give_out(tmp_path / "a", tmp_path / "b")
        assert not (tmp_path / "b").exists()

    refused("taps are 0, 1, final; accepted are layers by number", taps=("0", "1", "final"))
    refused("taps are 3, 1; accepted are ascending ones", taps=("3", "1"))
    refused("fc_bias is true, accepted is false", fc_bias=True)
    refused("does not say how many tokens its model has; accepted is --model", vocab_size=0)
    refused("drafts the token 7, accepted are 0 to 6", vocab_size=7)


def test_a_model_of_another_size_is_not_its_model(tiny: Tiny, tmp_path: Path) -> None:
    """A folder that says how many tokens its model has goes out for no other."""
    write_eagle3(tmp_path / "a")
    taken(tiny, tmp_path / "a", tmp_path / "b")
    assert read_eagle(tmp_path / "b").config.vocab_size == VOCAB
    with pytest.raises(FormatError, match=f"is for a model of {VOCAB} tokens and this one has {VOCAB + 8}"):
        give_out(tmp_path / "b", tmp_path / "c", vocab_size=VOCAB + 8)
    assert not (tmp_path / "c").exists()
    give_out(tmp_path / "b", tmp_path / "c", vocab_size=VOCAB)


def test_flags_may_stand_beside_the_numbers_of_layers(tiny: Tiny, tmp_path: Path) -> None:
    """As in layers that NVIDIA has published: `norm_before_fc` within `eagle_config`."""

    def change(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        config["eagle_config"] = {"norm_before_fc": True}
        tensors["input_norm.weight"] = torch.full((tensors["fc.weight"].shape[1],), 0.5)

    write_eagle3(tmp_path / "a", change=change)
    taken(tiny, tmp_path / "a", tmp_path / "b")
    layer = read_eagle(tmp_path / "b")
    assert layer.config.norm_before_fc and (layer.tensors["input_norm.weight"] == 0.5).all()
