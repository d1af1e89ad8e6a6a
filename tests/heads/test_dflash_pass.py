"""DFlash's layers on our kernels against numpy and transformers: every kind of block, row after row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.heads.dflash import DFlashWeights, read_dflash, write_dflash
from outpace.heads.dflash_pass import DFlashPass
from outpace.targets.table import TableTarget
from tests.dflash_heads import DFlashTwin, dflash_config, random_dflash, write_random_dflash
from tests.native_models import gguf_target

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
IDS = [3, 7, 9, 20, 77, 150, 250, 299]
KINDS: dict[str, dict[str, Any]] = {
    "dflash": {},
    "reduced": {"token_ids": IDS, "block_size": 6, "head_dim": 32, "num_layers": 3},
    "sliding": {"causal": (True, False, False), "windows": (4, 0, 3), "num_layers": 3, "qkv_bias": True},
    "causal": {"causal": (True, True), "rope_scaling": YARN, "rope_theta": 1e6},
    "dspark": {"from_root": True, "markov": "vanilla", "rank": 12},
    "gated": {"from_root": True, "markov": "gated", "rank": 32, "token_ids": IDS},
    "rnn": {"from_root": True, "markov": "rnn", "rank": 16},
    "rnn-behind": {"markov": "rnn", "rank": 16, "token_ids": IDS},
    "vanilla-behind": {"markov": "vanilla", "rank": 16},
    "one": {"from_root": True, "block_size": 1, "num_layers": 1},
}


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.targets.native_layer.KIND", "f32")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Float weights, so that nothing is rounded; output and input embedding differ."""
    return gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", context_length=64, kv="f32")


def twin_of(target: Any, heads: DFlashWeights) -> DFlashTwin:
    ids = np.arange(target.vocab_size)
    return DFlashTwin(heads, target.input_rows(ids), target.output_rows())


def states_for(target: Any, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 2 * target.hidden_size), scale=3.0).astype(np.float32)


def paths_of(length: int) -> list[list[int]]:
    return [path[:length] for path in ([], [9], [77], [9, 20], [77, 20], [9, 20, 3])]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_those_of_the_equations(target: Any, tmp_path: Path, kind: str) -> None:
    """Texts grow: what was committed since is read together with the next block. Two rows, of two lengths."""
    heads = write_random_dflash(tmp_path, target, **KINDS[kind])
    layers, twin = DFlashPass(target, tmp_path), twin_of(target, heads)
    texts = [states_for(target, 20, 1), states_for(target, 20, 2)]
    rows, kept = [layers.open(), layers.open()], [0, 0]
    for ends, roots in (([5, 1], [7, 9]), ([6, 4], [20, 3]), ([6, 4], [3, 3]), ([20, 19], [9, 7])):
        contexts = [
            layers.features(text[at:end]) if end > at else np.zeros((0, target.hidden_size), np.float32)
            for text, at, end in zip(texts, kept, ends, strict=True)
        ]
        blocks = layers(rows, contexts, roots, [layers.length] * 2)
        kept = ends
        for text, end, root, block in zip(texts, ends, roots, blocks, strict=True):
            for path in paths_of(layers.length - 1):
                order = None
                for level, token in enumerate([root, *path]):
                    order = block.follow(order, token, level)
                wanted = twin.laws(text[:end], root, path)
                found = block.law(len(path), order)
                np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-3)
                places, logits = block.likely(len(path), order)
                np.testing.assert_array_equal(logits, found[places])
                assert found[places].max() == found.max()
    whole = layers.whole(blocks[0].logits)
    assert whole.shape == (layers.length, target.vocab_size)
    if heads.token_ids is not None:
        np.testing.assert_array_equal(whole[:, IDS], blocks[0].logits)
        assert np.isneginf(np.delete(whole, IDS, axis=1)).all()


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("dflash", {"causal": (True, True)}),
        ("dflash", {"windows": (3, 3)}),
        ("dflash", {"from_root": True}),
        ("dflash", {"mask_token_id": 5}),
        ("sliding", {"windows": (3, 0, 3)}),
        ("dspark", {"markov": "none", "rank": 0}),
    ],
)
def test_another_reading_of_the_folder_differs(
    target: Any, tmp_path: Path, kind: str, other: dict[str, Any]
) -> None:
    """By much more than the tests above allow."""
    heads = write_random_dflash(tmp_path, target, **KINDS[kind])
    config = replace(heads.config, **other)
    changed = DFlashWeights(config, {n: heads.tensors[n] for n in config.shapes()}, heads.token_ids)
    text = states_for(target, 6)
    found, wrong = (twin_of(target, one).laws(text, 7, [9]) for one in (heads, changed))
    assert np.abs(found - wrong).max() > 0.05
    shifted = twin_of(target, heads).laws(np.roll(text, 1, axis=0), 7, [9])
    assert np.abs(found - shifted).max() > 0.05


@pytest.mark.parametrize("length", [1, 9])
def test_slots_are_those_of_transformers(target: Any, tmp_path: Path, length: int) -> None:
    """The same layers in a model of transformers that was written by others."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.models.muse_glimmer_assistant")
    heads = write_random_dflash(tmp_path, target, num_layers=3, block_size=6)
    c = heads.config
    model = theirs.MuseGlimmerAssistantModel(
        theirs.MuseGlimmerAssistantConfig(
            hidden_size=c.hidden_size, intermediate_size=c.intermediate_size, num_hidden_layers=3,
            num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads, head_dim=c.head_dim,
            rms_norm_eps=c.rms_eps, layer_types=["full_attention"] * 3, block_size=c.block_size,
            mask_token_id=c.mask_token_id, target_layer_ids=[0, 1],
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        )
    ).eval()  # fmt: skip
    renamed = {"fc.weight": "encoder.fc.weight", "hidden_norm.weight": "encoder.output_norm_enc.weight"}
    model.load_state_dict({renamed.get(n, n): torch.from_numpy(t) for n, t in heads.tensors.items()})
    text, root = states_for(target, length), 7
    embedded = target.input_rows(np.array([root] + [c.mask_token_id] * (c.block_size - 1)))
    with torch.no_grad():
        [wanted] = model(
            noise_embeds=torch.from_numpy(embedded)[None], context_hidden_states=torch.from_numpy(text)[None]
        ).last_hidden_state.numpy()
    layers = DFlashPass(target, tmp_path)
    [block] = layers([layers.open()], [layers.features(text)], [root], [layers.length])
    np.testing.assert_allclose(block.hidden, wanted[1:], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(twin_of(target, heads).slots(text, root), wanted, rtol=1e-3, atol=1e-3)


def test_fewer_levels_are_the_first_ones(target: Any, tmp_path: Path) -> None:
    write_random_dflash(tmp_path, target)
    layers = DFlashPass(target, tmp_path)
    context = layers.features(states_for(target, 3))
    [whole] = layers([layers.open()], [context], [7], [3])
    few, other = layers([layers.open(), layers.open()], [context] * 2, [7, 7], [1, 2])
    assert (whole.levels, few.levels, other.levels) == (3, 1, 2)
    np.testing.assert_array_equal(few.logits, whole.logits[:1])
    np.testing.assert_array_equal(other.logits, whole.logits[:2])


@pytest.mark.parametrize("near", [0.5, 99.0])
def test_the_likely_ones_are_the_best(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near: float
) -> None:
    monkeypatch.setattr("outpace.heads.dflash_pass.CANDIDATES", 5)
    monkeypatch.setattr("outpace.heads.dflash_pass.NEAR", near)
    write_random_dflash(tmp_path, target, from_root=True, markov="vanilla", rank=8)
    layers = DFlashPass(target, tmp_path)
    [block] = layers([layers.open()], [layers.features(states_for(target, 3))], [7], [2])
    for token in (7, 9):
        order = block.follow(None, token, 0)
        law = block.law(0, order)
        places, _ = block.likely(0, order)
        best = [at for at in np.argsort(-law)[:5].tolist() if law[at] > law.max() - near]
        assert set(places.tolist()) == set(best) and 0 < len(best) <= 5


def test_eight_bits_are_near(target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random_dflash(tmp_path, target, from_root=True, markov="rnn", rank=32)
    found = []
    for kind in ("f32", "q8s"):
        monkeypatch.setattr("outpace.targets.native_layer.KIND", kind)
        layers = DFlashPass(target, tmp_path)
        [block] = layers([layers.open()], [layers.features(states_for(target, 4))], [7], [layers.length])
        found.append(block.law(1, block.follow(block.follow(None, 7, 0), 9, 1)))
    error = np.abs(found[0] - found[1]).max() / np.abs(found[0]).max()
    assert 0 < error < 0.05


def test_heads_of_other_models_and_vocabularies_are_refused(target: Any, tmp_path: Path) -> None:
    config = dflash_config(target)
    for name, other, message in (
        ("other", replace(config, target="sha256:other"), r"were trained on another model \(a tiny model\)"),
        ("large", replace(config, vocab_size=301), "are for a vocabulary of 301 tokens, accepted are 300"),
        ("taps", replace(config, taps=("7",)), "unknown tap '7'"),
    ):
        write_dflash(tmp_path / name, random_dflash(other))
        with pytest.raises(OutpaceError, match=message):
            DFlashPass(target, tmp_path / name)
    far = random_dflash(replace(config, num_tokens=2), token_ids=[5, target.vocab_size])
    write_dflash(tmp_path / "far", far)
    with pytest.raises(
        OutpaceError, match=f"accepted are those of the model's vocabulary, 0 to {target.vocab_size - 1}"
    ):
        DFlashPass(target, tmp_path / "far")
    with pytest.raises(OutpaceError, match="TableTarget shows none; accepted are native and transformers"):
        DFlashPass(TableTarget.random(vocab_size=8, order=1), tmp_path / "far")


def test_scores_that_are_no_numbers_name_the_heads(target: Any, tmp_path: Path) -> None:
    write_random_dflash(tmp_path, target)
    layers = DFlashPass(target, tmp_path)
    no_numbers: Any = lambda states: np.full((len(states), 300), np.nan, np.float32)  # noqa: E731
    layers._unembed = no_numbers
    with pytest.raises(OutpaceError, match=f"the heads in {tmp_path} give scores that are no numbers"):
        layers([layers.open()], [layers.features(states_for(target, 2))], [7], [1])


def test_a_folder_gives_back_its_bits(target: Any, tmp_path: Path) -> None:
    for kind, options in KINDS.items():
        heads = write_random_dflash(tmp_path / kind, target, **options)
        found = read_dflash(tmp_path / kind)
        assert found.config == heads.config
        for name, tensor in heads.tensors.items():
            np.testing.assert_array_equal(found.tensors[name], tensor)
        if heads.token_ids is None:
            assert found.token_ids is None
        else:
            np.testing.assert_array_equal(found.token_ids, heads.token_ids)
