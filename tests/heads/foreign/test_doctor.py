"""What is wrong with a folder of heads is named, thing by thing; no damage leads to more than a line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import FormatError, OutpaceError  # noqa: E402
from outpace.heads.folder import CONFIG, WEIGHTS  # noqa: E402
from outpace.heads.foreign.doctor import OWN, examine  # noqa: E402
from outpace.heads.foreign.eagle import IDS  # noqa: E402
from outpace.heads.foreign.taking import take_in  # noqa: E402
from tests.dflash_heads import write_random_dflash  # noqa: E402
from tests.eagle_heads import write_random_eagle  # noqa: E402
from tests.exit_adapters import write_random_adapter  # noqa: E402
from tests.foreign_heads import (  # noqa: E402
    BF16,
    VOCAB,
    write_block_speculators,
    write_dflash,
    write_dspark,
    write_eagle1,
    write_eagle3,
    write_medusa,
    write_speculators,
    write_vllm_medusa,
)
from tests.heads.foreign.conftest import Tiny  # noqa: E402
from tests.made_heads import (  # noqa: E402
    with_config,
    write_random,
    write_random_early,
    write_random_hydra,
    write_random_markov,
    write_random_medusa,
)

Write = Callable[..., Any]
WRITERS: dict[str, Write] = {
    "eagle1": write_eagle1,
    "eagle3": write_eagle3,
    "speculators": write_speculators,
    "dflash": write_dflash,
    "dspark": write_dspark,
    "dflash-speculators": write_block_speculators,
    "medusa": write_medusa,
    "vllm": lambda folder, **options: write_vllm_medusa(folder, ids=(5, 2, 9), **options),
}
GATE, QKV = "layers.0.mlp.gate_proj.weight", "layers.0.self_attn."
NAN, INF = float("nan"), float("inf")


def without(name: str) -> Any:
    return lambda config, tensors: tensors.pop(name)


def with_tensor(name: str, make: Callable[[Any], Any]) -> Any:
    def change(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = make(tensors.get(name)).contiguous()

    return change


def with_field(**fields: Any) -> Any:
    return lambda config, tensors: config.update(fields)


def with_layer(**fields: Any) -> Any:
    return lambda config, tensors: config["transformer_layer_config"].update(fields)


def set_last(tensor: Any, value: float) -> Any:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


@pytest.mark.parametrize("layout", WRITERS)
def test_whole_folders_are_well(tiny: Tiny, tmp_path: Path, layout: str) -> None:
    WRITERS[layout](tmp_path)
    report = examine(tmp_path, tiny.target)
    assert report.is_well and report.faults == [] and report.unfit == []
    facts = dict(report.facts)
    assert facts["width"] == "64" and facts["vocabulary"] == "300 tokens"


def test_facts(tmp_path: Path) -> None:
    write_eagle3(tmp_path / "a")
    facts = dict(examine(tmp_path / "a").facts)
    assert facts["what"] == "EAGLE-3 layer, original layout"
    assert facts["states"] == "those that the layers 2, n // 2 and n - 3 of the target's n read"
    assert facts["drafted tokens"] == "8"
    write_speculators(tmp_path / "b")
    facts = dict(examine(tmp_path / "b").facts)
    assert facts["target"] == "org/tiny" and facts["states"] == "those that the layers 2, 4, 5 read"
    # fc, q, k, v, o, gate, up and down, five norms, lm_head
    sizes = [64 * 192, 128 * 64, 128 * 32, 128 * 32, 64 * 64, *[48 * 64] * 3, *[64] * 4, 8 * 64]
    assert facts["weights"] == f"{sum(sizes)} parameters, {sum(sizes) * 2 / 1e6:.1f} MB: 13 BF16"


@pytest.mark.parametrize(
    ("layout", "change", "kind", "message"),
    [
        ("eagle1", without(GATE), "missing", f"{GATE}, floats [48, 64]"),
        ("eagle1", with_tensor(GATE, lambda t: t.T), "wrong shape", f"{GATE} BF16[64, 48], expected floats"),
        ("eagle1", with_tensor(GATE, lambda t: t.long()), "wrong shape", f"{GATE} I64[48, 64], expected"),
        ("eagle1", with_tensor("extra", lambda t: torch.ones(2)), "nobody reads", "extra F32[2]"),
        ("eagle1", with_field(bias=True), "missing", "fc.bias, floats [64]"),
        ("eagle1", with_tensor("fc.bias", lambda t: torch.ones(64)), "nobody reads", "fc.bias F32[64]"),
        (
            "eagle1",
            with_tensor("layers.1.mlp.up_proj.weight", lambda t: torch.ones(1, 1)),
            "nobody reads",
            "layers.1.mlp.up_proj.weight",
        ),
        ("eagle1", with_tensor("fc.weight", lambda t: set_last(t, NAN)), "wrong values", "fc.weight"),
        ("speculators", with_tensor("norm.weight", lambda t: set_last(t, -INF)), "wrong values", "norm.w"),
        ("speculators", with_tensor("norm.weight", lambda t: set_last(t, -7e4)), "wrong values", "above 655"),
        ("eagle1", with_tensor("fc.weight", lambda t: set_last(t, 6.6e4)), "wrong values", "above 65504"),
        ("eagle3", without("d2t"), "wrong tokens", "d2t is missing, expected I64[8]"),
        ("eagle3", with_tensor("d2t", lambda t: t.float()), "wrong tokens", "d2t F32[8], expected I64[8]"),
        ("eagle3", with_tensor("d2t", lambda t: t[:7]), "wrong tokens", "d2t I64[7], expected I64[8]"),
        ("eagle3", with_tensor("d2t", lambda t: t + 1), "wrong tokens", "token 300 is drafted, accepted"),
        ("eagle3", with_tensor("d2t", lambda t: t - 2), "wrong tokens", "t2d and d2t name different tokens"),
        ("eagle3", with_tensor("d2t", lambda t: t * 0 + (1 << 62)), "wrong tokens", "drafted, accepted"),
        ("eagle3", with_tensor("d2t", lambda t: -torch.arange(8)), "wrong tokens", "token 0 is drafted"),
        ("eagle3", with_tensor("t2d", lambda t: ~t), "wrong tokens", "t2d and d2t name different tokens"),
        ("eagle3", with_tensor("t2d", lambda t: t[1:]), "wrong tokens", "t2d BOOL[299], expected BOOL[300]"),
        ("eagle3", with_field(draft_vocab_size=9), "wrong tokens", "d2t I64[8], expected I64[9]"),
        ("eagle3", with_field(num_hidden_layers=2), "wrong", "num_hidden_layers is 2, accepted is 1"),
        ("eagle3", with_field(hidden_act="gelu"), "wrong", "hidden_act is 'gelu', accepted is silu or swish"),
        ("eagle3", with_field(head_dim=24), "wrong", "width is 24, accepted are multiples of 16 up to 512"),
        ("eagle3", with_field(target_hidden_size=128), "wrong", "target_hidden_size is 128, accepted is 64"),
        ("eagle3", with_field(rope_scaling={"type": "odd", "factor": 2}), "wrong", "rope scaling 'odd'"),
        ("eagle3", with_field(rope_theta=0), "wrong", "rope_theta is 0, accepted are numbers above 1"),
        ("eagle3", with_field(hidden_size="64"), "wrong", "hidden_size is '64', accepted are whole numbers"),
        ("eagle3", with_field(hidden_size=10**30), "wrong", "accepted are whole numbers from 1 to 1048576"),
        ("eagle3", with_field(draft_vocab_size=301), "wrong", "draft_vocab_size is 301, accepted are"),
        ("eagle3", with_field(**{IDS: [0, 1]}), "wrong", "are 1 to 16 ascending numbers"),
        ("eagle3", with_field(**{IDS: [3, 2]}), "wrong", "are 1 to 16 ascending numbers"),
        ("eagle3", with_field(num_key_value_heads=3), "wrong", "are divisors of num_attention_heads, 4"),
        ("speculators", with_layer(model_type="gemma"), "wrong", "accepted is llama or qwen3"),
        ("speculators", with_layer(model_type="qwen3"), "missing", f"{QKV}q_norm.weight, floats [16]"),
        ("speculators", with_layer(attention_bias=True), "missing", f"{QKV}k_proj.bias, floats [32]"),
        ("speculators", with_field(fc_norm=1), "wrong", "fc_norm is 1, accepted are true and false"),
        ("speculators", with_field(norm_before_fc=True), "missing", "input_norm.weight, floats [192]"),
        ("speculators", with_field(transformer_layer_config=[]), "wrong", "transformer_layer_config is []"),
        ("speculators", with_field(speculators_config={"verifier": 3}), "wrong", "_config.verifier is 3"),
        (
            "speculators",
            with_tensor("layers.0.self_attn.o_proj.bias", lambda t: torch.ones(64)),
            "nobody reads",
            "layers.0.self_attn.o_proj.bias F32[64]",
        ),
        ("medusa", without("1.0.linear.bias"), "missing", "1.0.linear.bias, floats [64]"),
        ("medusa", with_field(medusa_num_layers=1), "wrong", "has no output matrix 0.1.weight"),
        ("medusa", with_field(medusa_num_heads=4), "missing", "3.2.weight, floats [300, 64]"),
        ("medusa", with_field(medusa_num_heads=65), "wrong", "accepted are whole numbers from 1 to 64"),
        ("vllm", with_field(logit_scale=0), "wrong", "logit_scale is 0, accepted are numbers above 1e-06"),
        ("vllm", with_field(logit_scale=1e300), "wrong", "accepted are numbers above 1e-06, up to 1e+06"),
        ("vllm", with_field(truncated_vocab_size=4), "wrong tokens", "token_map I64[3], expected I64[4]"),
        ("vllm", with_tensor("token_map", lambda t: t - 3), "wrong tokens", "the token -1 is drafted"),
        ("vllm", with_field(medusa_fc_bias=False), "nobody reads", "blocks.0.layers.0.bias BF16[64]"),
    ],
)  # fmt: skip
def test_every_fault_is_named(
    tiny: Tiny, tmp_path: Path, layout: str, change: Any, kind: str, message: str
) -> None:
    WRITERS[layout](tmp_path / "a", change=change)
    report = examine(tmp_path / "a")
    assert not report.is_well
    said = [f"{one}: {text}" for one, text in report.faults]
    assert any(one.startswith(f"{kind}: ") and message in one for one in said), said
    with pytest.raises(OutpaceError):
        take_in(tmp_path / "a", tiny.target, "tiny", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_all_faults_are_named(tmp_path: Path) -> None:
    def change(config: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name in ("fc.weight", "norm.weight", "lm_head.weight"):
            del tensors[name]
        tensors["unknown"] = torch.ones(1)
        tensors["midlayer.mlp.up_proj.weight"] = torch.ones(2, 2)

    write_eagle3(tmp_path, change=change)
    kinds = [kind for kind, _ in examine(tmp_path).faults]
    assert sorted(kinds) == ["missing"] * 3 + ["nobody reads", "wrong shape"]


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("speculators", {"layers": [2, 4, 9]}, "the output of layer 8, the model has the layers 0 to 7"),
        ("speculators", {"change": None}, "a vocabulary of 400 tokens, the model has 300"),
    ],
)  # fmt: skip
def test_other_models_are_refused(
    tiny: Tiny, tmp_path: Path, layout: str, options: dict[str, Any], message: str
) -> None:
    if "change" in options:
        options = {"change": lambda c, t: (with_layer(vocab_size=400)(c, t), t.pop("t2d"))}
    WRITERS[layout](tmp_path / "a", **options)
    assert examine(tmp_path / "a").is_well
    report = examine(tmp_path / "a", tiny.target)
    assert not report.is_well and report.faults == []
    assert any(message in text for _, text in report.unfit or ())
    with pytest.raises(FormatError, match=message):
        take_in(tmp_path / "a", tiny.target, "tiny", tmp_path / "b")


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"speculators_model_type": "dflash2"}, "DFlash2 layers"),
        ({"speculators_model_type": "peagle"}, "a P-EAGLE layer"),
        ({"speculators_model_type": "next"}, "speculators' 'next'"),
        ({"architectures": ["DFlash2DraftModel"], "block_size": 16, "mask_token_id": 3}, "DFlash2 layers"),
        ({"speculators_model_type": "dspark", "projector_type": "domino"}, "Domino layers"),
        ({"architectures": ["LlamaForCausalLMEagle4"], "hidden_size": 64}, "an EAGLE-4 layer"),
    ],
)
def test_what_no_drafter_runs(tiny: Tiny, tmp_path: Path, config: dict[str, Any], what: str) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(config))
    report = examine(tmp_path)
    assert report.facts == [("what", what)]
    assert report.faults == [("not run", "no drafter of Outpace runs it")]
    with pytest.raises(FormatError, match="which no drafter of Outpace runs; accepted are folders of Medusa"):
        take_in(tmp_path, tiny.target, "tiny", tmp_path / "b")


def write_own(folder: Path, method: str, target: Any) -> None:
    writers: dict[str, Callable[[], Any]] = {
        "blockwise": lambda: write_random(folder, target, token_ids=[2, 5]),
        "markov_heads": lambda: write_random_markov(folder, target),
        "medusa": lambda: write_random_medusa(folder, target, token_ids=[2, 5]),
        "hydra": lambda: write_random_hydra(folder, target, token_ids=[2, 5]),
        "eagle": lambda: write_random_eagle(folder, target),
        "dflash": lambda: write_random_dflash(folder, target, from_root=True, markov="rnn", rank=8),
        "early": lambda: write_random_early(folder, target),
        "c2t": lambda: write_classifier(folder),
        "early_exit": lambda: write_random_adapter(folder, target, token_ids=[2, 5]),
    }
    writers[method]()


def write_classifier(folder: Path) -> None:
    from outpace.heads.c2t import C2TConfig, Classifier, write_c2t
    from tests.made_heads import random_tensors

    config = C2TConfig(6, draft="ngram", model="a tiny model")
    write_c2t(folder, Classifier(config, random_tensors(config.shapes(), 0)))


class Looped:
    """As much of a looped model as an early head's config asks for."""

    def __init__(self, target: Any) -> None:
        self.num_loops, self.hidden_size = 4, target.hidden_size
        self.fingerprint = target.fingerprint


def test_what_is_trained_here_is_known() -> None:
    from outpace.cli.train import app

    assert {command.name for command in app.registered_commands} <= OWN.keys()


def test_heads_of_attention_are_no_heads(tiny: Tiny, tmp_path: Path) -> None:
    for method in ("dflash", "eagle", "early_exit"):
        write_own(tmp_path / method, method, tiny.target)
        assert "heads" not in dict(examine(tmp_path / method).facts)
    facts = dict(examine(tmp_path / "dflash").facts)
    assert facts["layers"] == "2" and facts["Markov head"] == "rnn, of rank 8"
    assert facts["block"] == "4 drafted tokens, the mask is token 299"


@pytest.mark.parametrize("method", OWN)
def test_our_own_folders(tiny: Tiny, tmp_path: Path, method: str) -> None:
    write_own(tmp_path, method, Looped(tiny.target) if method == "early" else tiny.target)
    report = examine(tmp_path, tiny.target)
    facts = dict(report.facts)
    assert report.is_well and facts["what"] == f"{OWN[method].what}, made for Outpace"
    assert facts["target"] == "a tiny model"
    name = next(iter(load_names(tmp_path) - {"token_ids", "token_map"}))
    damage(tmp_path, lambda tensors: tensors | {"odd": torch.ones(1), name: torch.ones(3, 5, 7)})
    faults = examine(tmp_path).faults
    assert ("nobody reads", "odd F32[1]") in faults and len(faults) == 2
    if method != "c2t":
        write_own(tmp_path, method, Looped(tiny.target) if method == "early" else tiny.target)
        with_config(**{"targets": ["x"]} if method == "early" else {"target": "x"})(tmp_path)
        assert examine(tmp_path, tiny.target).unfit == [
            ("does not fit", "trained on another model, by its fingerprint")
        ]
    with_config(version=7)(tmp_path)
    [(kind, text)] = examine(tmp_path).faults
    assert kind == "wrong" and "version 7, accepted is 1" in text
    with pytest.raises(FormatError, match="is a folder of Outpace already"):
        take_in(tmp_path, tiny.target, "tiny", tmp_path / "b")


def load_names(folder: Path) -> set[str]:
    from safetensors.torch import load_file

    return set(load_file(folder / WEIGHTS))


def damage(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


VALUES = [
    None,
    True,
    -1,
    0,
    3,
    1 << 70,
    1.5,
    float("nan"),
    "x",
    "",
    [],
    [1],
    {},
    {"rope_type": "yarn"},
    "\x1b[2J",
]


@pytest.mark.parametrize("layout", WRITERS)
def test_no_damage_is_more_than_a_line(tiny: Tiny, tmp_path: Path, layout: str) -> None:
    """Fields of any value, files cut anywhere, bytes turned: a report or an OutpaceError of one line."""
    folder, rng = tmp_path / "a", random.Random(7)
    WRITERS[layout](folder)
    weights = next(folder.glob("*.safetensors"))
    config, data = json.loads((folder / CONFIG).read_text()), weights.read_bytes()

    def survives() -> bool:
        try:
            report = examine(folder)
            assert all("\n" not in text for _, text in report.faults)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            take_in(folder, tiny.target, "tiny", tmp_path / "out")
            return True
        except OutpaceError as error:
            assert "\n" not in str(error)
            return False

    for name in config:
        for value in VALUES:
            (folder / CONFIG).write_text(json.dumps(config | {name: value}))
            survives()
    inner = config.get("transformer_layer_config") or {}
    for name in inner:
        for value in VALUES:
            changed = config | {"transformer_layer_config": inner | {name: value}}
            (folder / CONFIG).write_text(json.dumps(changed))
            examine(folder)
    (folder / CONFIG).write_text(json.dumps(config))
    length = int.from_bytes(data[:8], "little")
    for size in [
        0,
        7,
        8,
        9,
        length,
        length + 8,
        len(data) - 1,
        *(rng.randrange(len(data)) for _ in range(5)),
    ]:
        weights.write_bytes(data[:size])
        assert not survives()
    for _ in range(60):
        turned = bytearray(data)
        turned[rng.randrange(8 + length)] ^= 1 << rng.randrange(8)
        weights.write_bytes(turned)
        survives()


def test_bits_of_types_that_others_write(tiny: Tiny, tmp_path: Path) -> None:
    for dtype in (BF16, torch.float16, torch.float32):
        write_eagle3(tmp_path / str(dtype), dtype=dtype, ids=range(VOCAB))
        assert examine(tmp_path / str(dtype), tiny.target).is_well
