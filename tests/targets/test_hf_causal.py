"""Transformers models as targets: every node's logits are those of a full forward call of its path."""

from __future__ import annotations

import functools
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling, choose  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.targets import hf_masks  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.hf_models import TESTED, _context_length  # noqa: E402
from outpace.targets.hf_scores import TorchScores  # noqa: E402
from tests.hf_families import MODEL_TYPES, contents, random_model, tiny_model  # noqa: E402
from tests.rows import on, opened  # noqa: E402
from tests.strategies import extreme_samplings, samplings  # noqa: E402

# Longer than the sliding windows (6 or 8); of different lengths, so that a call on all is ragged.
PROMPTS = [[5, 17, 3, 250, 9, 9, 81, 44, 60, 12, 7, 33], [2], [90, 91, 92, 93, 94, 95, 96, 97, 98]]
TREE = TokenTree([11, 20, 21, 22, 20, 23, 24, 25], [-1, 0, 0, 1, 1, 3, 2, 5])
TREES = [TREE, TokenTree.chain(40, [41, 42, 43, 44]), TokenTree([50, 51, 52], [-1, 0, 0])]


@pytest.fixture(scope="module", params=MODEL_TYPES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param)


def reference(model: Any, text: list[int]) -> np.ndarray:
    """f32[T, V]: the model's own logits after every token, no cache, no mask of ours."""
    with torch.no_grad():
        return model(torch.tensor([text]), use_cache=False).logits[0].float().numpy()


def assert_scores(
    target: HfCausalTarget,
    texts: list[list[int]],
    rows: list[int],
    trees: list[TokenTree],
    reference_model: Any = None,
) -> None:
    """Every node of every tree, behind the texts that the rows should hold."""
    scores = target.score(on(rows, trees))
    for row, (text, tree) in enumerate(zip(texts, trees, strict=True)):
        assert target.length(rows[row]) == len(text)
        for path in tree.paths():
            expected = reference(
                reference_model or target.model, [*text, *(tree.token_list[node] for node in path)]
            )
            assert np.abs(scores.logits(row, path) - expected[len(text) :]).max() < 1e-4


def test_every_type_is_named_as_tested() -> None:
    assert set(MODEL_TYPES) == set(TESTED)


def test_a_tree_is_its_paths(model: Any) -> None:
    target = HfCausalTarget(model)
    rows, scores = opened(target, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        assert np.abs(scores.logits(row, [0]) - reference(model, prompt)[-1:]).max() < 1e-4
    for i in range(len(PROMPTS)):
        assert_scores(target, PROMPTS[i : i + 1], rows[i : i + 1], [TREE])
        assert_scores(target, PROMPTS[i : i + 1], rows[i : i + 1], [TREES[1]])
    assert_scores(target, PROMPTS, rows, TREES)
    assert_scores(target, [PROMPTS[2], PROMPTS[0]], [rows[2], rows[0]], [TREE, TREES[2]])
    assert_scores(target, PROMPTS, rows, [TokenTree.root(4)] * 3)


def test_kept_paths_forks_and_freed_rows(model: Any) -> None:
    target = HfCausalTarget(model)
    rows, _ = opened(target, PROMPTS)
    texts = [list(prompt) for prompt in PROMPTS]
    for paths in ([[2, 6], [1, 2], []], [[1, 3, 5, 7], [], [2]], [[1, 4], [1, 2, 3, 4], [1]]):
        assert_scores(target, texts, rows, TREES)
        target.keep(rows, paths)
        for text, tree, path in zip(texts, TREES, paths, strict=True):
            text += [tree.token_list[node] for node in (0, *path)]
    assert_scores(target, texts, rows, TREES)
    copy = target.fork(rows[0])
    target.free([rows[0]])
    assert_scores(target, [texts[1], texts[2], texts[0]], [rows[1], rows[2], copy], TREES)
    (again,), _ = opened(target, [PROMPTS[0]])
    assert_scores(target, [texts[0], PROMPTS[0]], [copy, again], [TREE, TREE])


def grown(tokens: list[int], parents: list[int], *sizes: int) -> list[TokenTree]:
    """A tree's first nodes, ever more of them."""
    return [TokenTree(tokens[:size], parents[:size]) for size in sizes]


def test_trees_that_grow(model: Any) -> None:
    """Nodes that are known are not run again; what others do between, and other trees, cost a run only."""
    target = HfCausalTarget(model)
    rows, _ = opened(target, PROMPTS)
    texts = [list(prompt) for prompt in PROMPTS]
    tokens, parents = TREE.token_list, TREE.shape.parent_list
    levels = list(
        zip(
            grown(tokens, parents, 1, 3, 5, 8),
            grown([40, 41, 42, 43, 44], [-1, 0, 1, 2, 3], 1, 2, 3, 5),
            grown([50, 51, 52, 53, 54], [-1, 0, 0, 1, 2], 2, 2, 3, 5),
            strict=True,
        )
    )
    num_run: list[int] = []  # nodes with their padding, call by call
    new: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda m, i, o: num_run.append(i[0].numel()))
    try:
        for trees in levels:
            num_run.clear()
            assert_scores(target, texts, rows, list(trees))
            new.append(num_run[0])
    finally:
        hook.remove()
    assert new == [3 * 2, 3 * 2, 3 * 2, 3 * 3]
    paths = [[2, 6], [1, 2, 3], [2]]
    target.keep(rows, paths)
    for text, tree, path in zip(texts, levels[-1], paths, strict=True):
        text += [tree.token_list[node] for node in (0, *path)]
    assert_scores(target, texts, rows, list(levels[1]))
    assert_scores(target, texts[:1], rows[:1], [TREES[2]])
    assert_scores(target, texts, rows, list(levels[2]))
    target.free(rows[:1])
    assert_scores(target, texts[1:], rows[1:], list(levels[3][1:]))
    assert_scores(target, texts[1:], rows[1:], [TREE, TREE])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
def test_both_kinds_of_attention(model_type: str, attention: str) -> None:
    model = tiny_model(model_type)
    model.set_attn_implementation(attention)
    target = HfCausalTarget(model)
    rows, _ = opened(target, PROMPTS)
    assert_scores(target, PROMPTS, rows, TREES)


def test_a_compiled_model() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    target = HfCausalTarget(torch.compile(model, backend="eager", fullgraph=True))
    rows, _ = opened(target, PROMPTS)
    texts = [list(prompt) for prompt in PROMPTS]
    for _ in range(3):
        assert_scores(target, texts, rows, TREES, reference_model=model)
        target.keep(rows, [[2, 6], [1, 2], []])
        for text, tree, path in zip(texts, TREES, ([2, 6], [1, 2], []), strict=True):
            text += [tree.token_list[node] for node in (0, *path)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
def test_on_a_gpu(model_type: str) -> None:
    model = tiny_model(model_type)
    target = HfCausalTarget(tiny_model(model_type).to("cuda"))
    rows, first = opened(target, PROMPTS)
    assert first.logits(0, [0]).shape == (1, target.vocab_size)
    scores = target.score(on(rows, TREES))
    for row, (text, tree) in enumerate(zip(PROMPTS, TREES, strict=True)):
        for path in tree.paths():
            expected = reference(model, [*text, *(tree.token_list[node] for node in path)])[len(text) :]
            assert np.abs(scores.logits(row, path) - expected).max() < 1e-3
    target.keep(rows, [[2, 6], [1, 2], []])
    for sampling in (Sampling(temperature=0.8, top_p=0.9), Sampling(temperature=0.8, top_k=9)):
        scores = target.score(on(rows[:1], [TREE]))
        depths = TREE.depth() + 16
        assert scores.choose([sampling], [15])[0] == choose(
            scores.logits(0, range(8)), sampling, depths.tolist()
        )


def test_half_precision() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    target = HfCausalTarget(model)
    rows, _ = opened(target, PROMPTS)
    scores = target.score(on(rows, TREES))
    for row, (text, tree) in enumerate(zip(PROMPTS, TREES, strict=True)):
        for path in tree.paths():
            expected = reference(model, [*text, *(tree.token_list[node] for node in path)])[len(text) :]
            logits = scores.logits(row, path)
            assert logits.dtype == np.float32 and np.abs(logits - expected).max() < 0.1 * expected.std()
        assert scores.choose([Sampling()] * 3, [0] * 3)[row] == [
            int(scores.logits(row, [node]).argmax()) for node in range(tree.num_nodes)
        ]


def test_taps_are_the_hidden_states() -> None:
    model = tiny_model("llama")
    target = HfCausalTarget(model, taps=(0, 1, "final"))
    rows, first = opened(target, PROMPTS)
    with torch.no_grad():
        expected = [model(torch.tensor([p]), output_hidden_states=True).hidden_states for p in PROMPTS]
    for tap, layer in (("0", 1), ("1", 2), ("final", -1)):
        lasts = np.stack([states[layer][0, -1].numpy() for states in expected])
        assert np.abs(first.hidden(tap) - lasts).max() < 1e-4
    hidden = target.score(on(rows, TREES)).hidden("1")
    assert hidden.shape == (sum(tree.num_nodes for tree in TREES), 64)
    text = [*PROMPTS[1], *TREES[1].token_list]
    with torch.no_grad():
        states = model(torch.tensor([text]), output_hidden_states=True).hidden_states[2][0]
    assert np.abs(hidden[8:13] - states[1:].numpy()).max() < 1e-4
    with pytest.raises(OutpaceError, match="accepted are 0, 1, final"):
        first.hidden("2")
    with pytest.raises(OutpaceError, match="accepted are 0 to 2 and final"):
        HfCausalTarget(model, taps=(3,))


def test_nothing_stays_in_the_model() -> None:
    model = tiny_model("llama")
    before = contents(model)
    config = model.config.to_dict()
    target = HfCausalTarget(model, taps=(0, "final"))
    rows, _ = opened(target, PROMPTS)
    target.score(on(rows, TREES))
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in model.modules()]
    assert contents(model) == before and not any(hooks) and model.config.to_dict() == config


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "longrope", "original_max_position_embeddings": 40}, 40),
        ({"rope_type": "longrope"}, 50),
        ({"rope_type": "yarn", "original_max_position_embeddings": 40}, 100),
        ({"type": "longrope", "original_max_position_embeddings": 40}, 40),
        (None, 100),
    ],
)
def test_longrope_ends_where_it_would_turn_old_keys_otherwise(rope: Any, expected: int) -> None:
    config = SimpleNamespace(
        max_position_embeddings=100, rope_parameters=rope, original_max_position_embeddings=50
    )
    assert _context_length(config) == expected


def test_a_single_rows_mask_is_made_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = hf_masks._alone
    monkeypatch.setattr(hf_masks, "_alone", lambda *args: made.append(1) or real(*args))
    target = HfCausalTarget(tiny_model("llama"))
    rows, _ = opened(target, [[1, 2, 3]])
    assert_scores(target, [[1, 2, 3]], rows, [TokenTree([4, 5, 6], [-1, 0, 0])])
    assert made


def test_ties_go_to_the_lower_id() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (40, 100)).astype(np.float32)
    logits[0], logits[1, 10:] = 1.0, -np.inf
    scores = TorchScores(torch.from_numpy(logits), [0], [[0] * 40], {})
    for k in (1, 8, 64, 100):
        ids, values = scores.top(0, range(40), k)
        assert np.array_equal(ids, np.argsort(-logits, kind="stable", axis=1)[:, :k])
        assert np.array_equal(values, np.take_along_axis(logits, ids, axis=1))
    assert scores.choose([Sampling()], [0])[0] == logits.argmax(axis=1).tolist()


@settings(max_examples=150)
@given(
    sampling=samplings() | extreme_samplings(),
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 0.3, 2.0, 8.0]),
)
def test_samples_are_those_of_the_logits(sampling: Sampling, seed: int, spread: float) -> None:
    """More tokens than are looked at first, some of them equal, some impossible."""
    rng = np.random.default_rng(seed)
    logits = (spread * rng.standard_normal((6, 700))).astype(np.float32)
    logits[1] = np.round(logits[1])
    logits[2, rng.permutation(700)[:600]] = -np.inf
    scores = TorchScores(torch.from_numpy(logits), [0], [[0, 1, 1, 2, 2, 3]], {})
    expected = choose(logits, sampling, [9, 10, 10, 11, 11, 12])
    assert scores.choose([sampling], [8]) == [expected]


TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


@pytest.mark.parametrize(
    ("names", "config", "why"),
    [
        ("Mamba", {"state_size": 4}, "'mamba'.*linear_attention"),
        ("Rwkv", {"attention_hidden_size": 32}, "'rwkv'.*recurrent"),
        ("RecurrentGemma", {"num_attention_heads": 2, "head_dim": 16}, "'recurrent_gemma'.*cannot go back"),
        ("Jamba", {"num_attention_heads": 2, "num_key_value_heads": 2}, "'jamba'.*linear_attention"),
        ("Bloom", {"n_head": 2}, "'bloom'.*ALiBi"),
        ("Mpt", {"d_model": 32, "n_heads": 2, "n_layers": 2}, "'mpt'.*ALiBi"),
        ("Falcon", {"num_attention_heads": 2, "alibi": True}, "'falcon'.*ALiBi"),
        (
            "GPTNeo",
            {"num_heads": 2, "num_layers": 2, "attention_types": [[["global", "local"], 1]]},
            "'gpt_neo'.*local",
        ),
    ],
)
def test_who_cannot_keep_a_path_is_refused(names: str, config: dict[str, Any], why: str) -> None:
    model = random_model(names, attn_implementation="eager", **TINY | config)
    with pytest.raises(OutpaceError, match=why) as error:
        HfCausalTarget(model)
    assert all(name in str(error.value) for name in TESTED)


def test_an_encoder_decoder_is_refused() -> None:
    import transformers

    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    with pytest.raises(OutpaceError, match=r"'t5'.*encoder-decoder"):
        HfCausalTarget(transformers.T5ForConditionalGeneration(config).eval())


def test_training_mode_and_other_attention_are_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(OutpaceError, match=r"model\.eval\(\)"):
        HfCausalTarget(model.train())
    model.eval().config._attn_implementation = "flash_attention_2"
    with pytest.raises(OutpaceError, match="accepted are eager, sdpa"):
        HfCausalTarget(model)


@pytest.mark.parametrize("value", [0, 0.0, 1e300, -1.0, float("inf"), float("nan"), 1e-300])
@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("cohere", "logit_scale"),
        *(("granite", f"{kind}_multiplier") for kind in ("attention", "embedding", "residual")),
        ("granite", "logits_scaling"),
        *(("gemma2", f"{kind}_logit_softcapping") for kind in ("attn", "final")),
    ],
)
def test_scales_that_leave_no_scores_are_refused(model_type: str, name: str, value: float) -> None:
    model = tiny_model(model_type)
    HfCausalTarget(model)
    model.config.__dict__[name] = value  # not all versions of transformers refuse another type
    said = f"the model's {name} is {value}, accepted are numbers from 1e-06 to 1e+06"
    with pytest.raises(OutpaceError, match=re.escape(said)):
        HfCausalTarget(model)


def test_an_unknown_type_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr("outpace.targets.hf_causal.TESTED", ("gpt2",))
    HfCausalTarget(model)
    plain = type(model).forward

    @functools.wraps(plain)
    def deaf(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return plain(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(type(model), "forward", deaf)
    with pytest.raises(OutpaceError, match="'llama' cannot be a target: a tree could not be scored"):
        HfCausalTarget(model)
