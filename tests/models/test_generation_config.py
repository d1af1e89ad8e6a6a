"""Every field of transformers' GenerationConfig, in a call and in a model's: as transformers, or refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.models.generation_config import (  # noqa: E402
    _DEFAULTS,
    OPTIONS,
    REFUSED,
    REFUSED_SAMPLING,
    WITHOUT_EFFECT,
)
from tests.hf_seq2seq_families import START_ID, tiny_seq2seq  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet")
GenerationConfig = transformers.GenerationConfig
PROMPTS = {
    "llama": torch.tensor([[5, 6, 7, 5, 6, 7, 5, 33], [0, 0, 9, 8, 9, 8, 9, 8]]),
    "t5": torch.tensor([[5, 6, 7, 8, 9, 10], [9, 9, 8, 8, 7, 7]]),
}
LENGTH = 12
# Values that differ from the defaults; where a text is changed by none of them, the first is enough.
VALUES: dict[str, list[Any]] = {
    "assistant_confidence_threshold": [0.9],
    "assistant_early_exit": [1],
    "assistant_ensemble_weight": [0.5],
    "assistant_lookbehind": [3],
    "bad_words_ids": [[[10], [5, 6], [41, 41]], [[2], [41]]],
    "begin_suppress_tokens": [[10, 41, 27, 103]],
    "bos_token_id": [7],
    "cache_config": [{"max_cache_len": 100}],
    "cache_implementation": ["static", "quantized"],
    "compile_config": [transformers.CompileConfig()],
    "constraints": [["something"]],
    "continuous_batching_config": [{}],
    "decoder_start_token_id": [9],
    "disable_compile": [True],
    "diversity_penalty": [0.5],
    "do_sample": [False],
    "dola_layers": ["low"],
    "early_stopping": [True],
    "encoder_no_repeat_ngram_size": [1, 2, 3],
    "encoder_repetition_penalty": [1.5],
    "eos_token_id": [41, [12, 41, 103]],
    "epsilon_cutoff": [0.1],
    "eta_cutoff": [0.1],
    "exponential_decay_length_penalty": [(2, 1.5)],
    "force_words_ids": [[[5]]],
    "forced_bos_token_id": [11],
    "forced_eos_token_id": [13, [14, 13]],
    "guidance_scale": [1.5],
    "is_assistant": [True],
    "length_penalty": [2.0],
    "low_memory": [True],
    "max_cache_len": [99],
    "max_length": [11, 30],
    "max_matching_ngram_size": [3],
    "max_new_tokens": [3, 40],
    "max_time": [1e-9],
    "min_length": [9, 14],
    "min_new_tokens": [5, 0],
    "min_p": [0.2],
    "no_repeat_ngram_size": [1, 2, 3],
    "num_assistant_tokens": [5],
    "num_assistant_tokens_schedule": ["heuristic"],
    "num_beam_groups": [2],
    "num_beams": [3],
    "num_return_sequences": [2],
    "output_attentions": [True],
    "output_hidden_states": [True],
    "output_logits": [True],
    "output_scores": [True],
    "pad_token_id": [3],
    "penalty_alpha": [0.6],
    "prefill_chunk_size": [4],
    "prompt_lookup_num_tokens": [4],
    "remove_invalid_values": [True],
    "renormalize_logits": [True],
    "repetition_penalty": [1.5, 0.8],
    "return_dict_in_generate": [True],
    "sequence_bias": [{(10,): -50.0, (5, 41): 60.0}, [[[41], -9.5], [[12, 12], -30.0]]],
    "speculation_type": ["dflash"],
    "stop_strings": ["x"],
    "suppress_tokens": [[10, 41, 12]],
    "target_lookbehind": [3],
    "temperature": [0.5],
    "token_healing": [True],
    "top_h": [0.4],
    "top_k": [3],
    "top_p": [0.5],
    "transformers_version": ["4.1"],
    "typical_p": [0.4],
    "use_cache": [False],
    "use_mtp": [True],
    "watermarking_config": [transformers.WatermarkingConfig(bias=9.0)],
}
FIELDS = [name for name in vars(GenerationConfig()) if not name.startswith("_")]


def made(model_type: str) -> Any:
    """A model whose texts end where they like and change with the options."""
    torch.manual_seed(0)
    if model_type == "t5":
        model = tiny_seq2seq("t5")
        model.generation_config.update(max_length=None, eos_token_id=[1, 2])
        return model
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 64}
    config = transformers.LlamaConfig(
        **sizes, num_hidden_layers=2, num_attention_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            if weight.ndim == 2:
                weight.mul_(4.0)
    return model


@pytest.fixture(scope="module", params=["llama", "t5"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    model = made(request.param)
    return model, outpace.accelerate(model, draft="ngram:min_n=1,length=4"), PROMPTS[request.param]


def outcome(generate: Any, *args: Any, **options: Any) -> Any:
    try:
        return generate(*args, **options).tolist()
    except OutpaceError as error:
        assert "\n" not in str(error)
        return error
    except Exception as error:
        return error


def test_every_field_is_in_one_table() -> None:
    assert len(FIELDS) > 60
    known = {*OPTIONS, *REFUSED, *REFUSED_SAMPLING, *WITHOUT_EFFECT}
    assert set(FIELDS) <= known and set(FIELDS) <= set(VALUES)
    assert sum(map(len, (OPTIONS, REFUSED, REFUSED_SAMPLING, WITHOUT_EFFECT))) == len(known)
    theirs = GenerationConfig._get_default_generation_params()
    assert {name: theirs[name] for name in _DEFAULTS} == _DEFAULTS
    for name, neutral in (REFUSED | REFUSED_SAMPLING).items():
        assert theirs.get(name) is None or theirs[name] in neutral, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_honoured_or_refused(pair: tuple[Any, Any, Any], name: str) -> None:
    model, ours, prompts = pair
    lengths = {} if name in ("max_length", "max_new_tokens") else {"max_new_tokens": LENGTH}
    plain = outcome(model.generate, prompts, max_new_tokens=LENGTH)
    before = copy.deepcopy(model.generation_config)
    for value in VALUES[name]:
        for given in (lengths | {name: value}, lengths, lengths | {"generation_config": None}):
            config = copy.deepcopy(before)
            if "generation_config" in given:
                given["generation_config"] = GenerationConfig()
                setattr(given["generation_config"], name, value)
            elif name not in given:
                setattr(config, name, value)
            model.generation_config = config
            try:
                expected = outcome(model.generate, prompts, **copy.deepcopy(given))
                found = outcome(ours.generate, prompts, **given)
            finally:
                model.generation_config = before
            if isinstance(found, OutpaceError):
                refused = name in REFUSED or isinstance(expected, ValueError)
                assert refused and name in str(found), f"{name}={value!r}: {found}"
            else:
                assert found == expected, f"{name}={value!r}"
                assert name not in WITHOUT_EFFECT or found == plain or name == "decoder_start_token_id"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in OPTIONS if name in FIELDS])
def test_a_none_in_the_call_means_none(pair: tuple[Any, Any, Any], name: str) -> None:
    model, ours, prompts = pair
    before = copy.deepcopy(model.generation_config)
    base = {} if name in ("max_length", "max_new_tokens") else {"max_new_tokens": LENGTH}
    for value in VALUES[name]:
        model.generation_config = copy.deepcopy(before)
        setattr(model.generation_config, name, value)
        try:
            expected = outcome(model.generate, prompts, **base, **{name: None})
            found = outcome(ours.generate, prompts, **base, **{name: None})
        finally:
            model.generation_config = before
        assert found == expected or (isinstance(found, OutpaceError) and isinstance(expected, TypeError))


@pytest.mark.filterwarnings("ignore")
def test_lengths_go_before_one_another_as_in_transformers(pair: tuple[Any, Any, Any]) -> None:
    model, ours, prompts = pair
    before = copy.deepcopy(model.generation_config)
    rng = np.random.default_rng(0)
    names = {
        "max_new_tokens": (3, 25),
        "max_length": (9, 40),
        "min_new_tokens": (0, 9),
        "min_length": (0, 20),
    }
    refusals = 0
    for _ in range(40):
        draws = [
            {name: int(rng.integers(*bounds)) for name, bounds in names.items() if rng.random() < 0.4}
            for _ in range(3)
        ]
        ends = {"eos_token_id": [41, 12, 2, 103, 1]}
        model.generation_config = copy.deepcopy(before)
        model.generation_config.update(**draws[0], **ends)
        given = dict(draws[1])
        if rng.random() < 0.3:
            given["generation_config"] = GenerationConfig(**draws[2])
        try:
            expected = outcome(model.generate, prompts, **copy.deepcopy(given))
            found = outcome(ours.generate, prompts, **given)
        finally:
            model.generation_config = before
        refusals += isinstance(found, OutpaceError)
        assert found == expected or (isinstance(found, OutpaceError) and isinstance(expected, ValueError)), (
            draws
        )
    assert refusals < 10


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("draft", ["none", "ngram:min_n=1,length=6"])
def test_rules_together_are_those_of_transformers(draft: str) -> None:
    rng = np.random.default_rng(1)
    for model_type in ("llama", "t5"):
        model, prompts = made(model_type), PROMPTS[model_type]
        ours = outpace.accelerate(model, draft=draft)
        most = 50 if model_type == "llama" else 300

        def some(count: int, most: int = most) -> list[int]:
            return rng.integers(3, most, count).tolist()

        for _ in range(12):
            choices: dict[str, Any] = {
                "min_length": int(rng.integers(0, 20)),
                "no_repeat_ngram_size": int(rng.integers(1, 5)),
                "encoder_no_repeat_ngram_size": int(rng.integers(1, 5)),
                "bad_words_ids": [some(1), some(2), [41, 12], [12, 12]],
                "sequence_bias": {tuple(some(1)): 3.0, (12, 12): -5.0, (41,): -0.5},
                "suppress_tokens": some(4),
                "begin_suppress_tokens": some(20),
                "forced_eos_token_id": 13,
                "eos_token_id": [12, 41, 2],
                "repetition_penalty": 1.4,
            }
            given = {name: value for name, value in choices.items() if rng.random() < 0.4}
            expected = model.generate(prompts, max_new_tokens=20, **given)
            assert torch.equal(ours.generate(prompts, max_new_tokens=20, **given), expected), given


def test_a_prompt_of_one_token_takes_a_forced_first_token() -> None:
    model = made("llama")
    for options in ({"forced_bos_token_id": 7}, {"forced_bos_token_id": 7, "begin_suppress_tokens": [7, 10]}):
        ids = torch.tensor([[5]])
        expected = model.generate(ids, max_new_tokens=6, **options)
        assert expected[0, 1] == 7
        assert torch.equal(outpace.accelerate(model).generate(ids, max_new_tokens=6, **options), expected)


def test_what_begins_a_decoder_is_that_of_transformers() -> None:
    model = made("t5")
    ours, source = outpace.accelerate(model), PROMPTS["t5"]
    for begun in ([[7, 9], [8, 9]], [[START_ID, 9], [START_ID, 5]], [[START_ID, 9], [8, 5]], [[7], [8]]):
        for options in (
            {"max_new_tokens": 5},
            {"max_length": 8},
            {"max_length": 8, "decoder_start_token_id": 7},
        ):
            given: dict[str, Any] = options | {
                "decoder_input_ids": torch.tensor(begun),
                "forced_bos_token_id": 11,
            }
            assert torch.equal(ours.generate(source, **given), model.generate(source, **given))
    with pytest.raises(OutpaceError, match=r"decoder_input_ids has shape \(2,\), accepted are \[B, W\]"):
        ours.generate(source, decoder_input_ids=torch.tensor([7, 9]))
    model.generation_config.decoder_start_token_id = None
    with pytest.raises(OutpaceError, match="decoder_start_token_id is None"):
        ours.generate(source)


@pytest.mark.filterwarnings("ignore")
def test_whispers_lengths_count_behind_what_begins() -> None:
    model = tiny_seq2seq("whisper")
    config = model.generation_config
    config.update(max_length=None, eos_token_id=2, no_timestamps_token_id=33)
    config.lang_to_id, config.task_to_id = {"<|en|>": 21}, {"transcribe": 31}
    config.no_timestamps_token_id, config.is_multilingual = 33, True
    features = torch.randn((2, 4, 24), generator=torch.Generator().manual_seed(0))
    ours = outpace.accelerate(model)
    theirs = {"force_unique_generate_call": True, "return_timestamps": False}
    for options in (
        {},
        {"max_length": 9},
        {"max_new_tokens": 9},
        {"max_length": 90},
        {"max_length": 9, "max_new_tokens": 5},
        {"max_new_tokens": 9, "min_new_tokens": 9, "begin_suppress_tokens": [5, 6]},
        {"language": "English", "max_length": 7},
        {"task": "transcribe", "language": "<|en|>", "max_length": 7},
        {"decoder_input_ids": torch.tensor([[298, 21, 7]] * 2), "max_length": 7},
    ):
        given = {"language": "en"} | options
        assert torch.equal(
            ours.generate(input_features=features, **given), model.generate(features, **given, **theirs)
        )
    config.forced_decoder_ids = [[1, 21], [2, 31]]
    assert torch.equal(ours.generate(input_features=features), model.generate(features, **theirs))
    for option in (
        {"task": "sing"},
        {"language": "xx"},
        {"return_timestamps": True},
        {"temperature": (0.0, 0.2)},
    ):
        with pytest.raises(OutpaceError, match=next(iter(option))):
            ours.generate(input_features=features, **{"language": "en"} | option)


@pytest.mark.parametrize(
    "option",
    [
        {"max_new_tokens": 3.5},
        {"max_new_tokens": "5"},
        {"max_length": True},
        {"min_length": -1},
        {"eos_token_id": "a"},
        {"eos_token_id": [[2]]},
        {"pad_token_id": 1.5},
        {"bad_words_ids": [["a"]]},
        {"bad_words_ids": 5},
        {"sequence_bias": [1, 2]},
        {"sequence_bias": "ab"},
        {"do_sample": True, "temperature": "hot"},
        {"do_sample": True, "top_k": 2.5},
        {"do_sample": True, "typical_p": 0.5},
        {"generation_config": {"max_length": 4}},
        {"inputs": torch.tensor([[5]])},
        {"past_key_values": object()},
        {"repetition_penalty": torch.tensor([1.0, 2.0])},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.5},
        {"encoder_repetition_penalty": torch.tensor([1.0, 2.0])},
        {"streamer": object()},
        {"cache_implementation": "paged"},
        {"generator": torch.Generator()},
        {"inputs_embeds": torch.zeros(1, 40, 9)},
        {"forced_eos_token_id": 300},
        {"forced_eos_token_id": -1},
        {"forced_bos_token_id": 10**9},
        {"sequence_bias": {(5,): float("nan")}},
    ],
)
def test_wrong_options_are_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(OutpaceError, match=[*option][-1]) as error:
        outpace.accelerate(made("llama")).generate(PROMPTS["llama"], **option)
    assert "\n" not in str(error.value) and "accepted" in str(error.value)


def test_a_field_of_a_later_transformers_is_refused_once_it_is_set() -> None:
    class Later(GenerationConfig):  # type: ignore[misc, valid-type]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.mirror_tau = options.get("mirror_tau")

    model = made("llama")
    ours = outpace.accelerate(model)
    plain = ours.generate(PROMPTS["llama"], max_new_tokens=5)
    model.generation_config = Later(eos_token_id=2, pad_token_id=0)
    assert torch.equal(ours.generate(PROMPTS["llama"], max_new_tokens=5), plain)
    model.generation_config.mirror_tau = 3.0
    with pytest.raises(OutpaceError, match=r"mirror_tau=3\.0, which is not available"):
        ours.generate(PROMPTS["llama"], max_new_tokens=5)
    assert torch.equal(ours.generate(PROMPTS["llama"], max_new_tokens=5, mirror_tau=None), plain)


def test_unseeded_sampling_follows_torchs_generator() -> None:
    ours = outpace.accelerate(made("llama"))
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 12, "eos_token_id": None}

    def samples() -> list[Any]:
        return [ours.generate(PROMPTS["llama"], **options).tolist() for _ in range(3)]

    torch.manual_seed(3)
    first = samples()
    assert first[0] != first[1] != first[2]
    assert samples() != first
    torch.manual_seed(3)
    assert samples() == first
    before = torch.get_rng_state()
    seeded = ours.generate(PROMPTS["llama"], **options, seed=4)
    assert torch.equal(ours.generate(PROMPTS["llama"], **options, seed=4), seeded)
    ours.generate(PROMPTS["llama"], max_new_tokens=3)
    assert torch.equal(torch.get_rng_state(), before), "neither a seed nor greedy decoding draws"
