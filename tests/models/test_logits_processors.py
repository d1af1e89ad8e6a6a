"""A user's logits processors, node by node, against `model.generate` with the same ones: the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling, choose  # noqa: E402
from tests.fakes import hostile  # noqa: E402
from tests.hf_families import tiny_looped, tiny_model  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402
from tests.models.test_seq2seq import settled, theirs  # noqa: E402
from tests.models.test_transformers import batch, blurred, prompts, repetitive  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet")
NGRAM = "ngram:min_n=1,max_n=2,length=5"


class NotTheLastTwo(transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
    """Forbids the last two tokens, which are others at every node, and writes into the scores."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores.scatter_(1, input_ids[:, -2:], -torch.inf)


class OfThePath(transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
    """Adds noise that depends on every token before, padding included."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        noise = []
        for row in input_ids.tolist():
            generator = torch.Generator().manual_seed(hash(tuple(row)) % 2**31)
            noise.append(torch.randn(scores.shape[1], generator=generator))
        return scores + 0.5 * scores.amax(1, keepdim=True).abs() * torch.stack(noise)


class Bent(transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
    """Not linear: what divides or adds before it has another effect than behind it."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return torch.where(scores > 0.5, 1 - scores, scores.sign() * scores**2)


class EverySecond(transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
    """Few choices, which depend on the length of the text."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        tokens = torch.arange(scores.shape[1])
        return scores.masked_fill((tokens + input_ids.shape[1]) % 2 == 0, -torch.inf)


MAKERS: dict[str, Callable[[], list[Any]]] = {
    "last two": lambda: [NotTheLastTwo()],
    "path": lambda: [OfThePath()],
    "several": lambda: [EverySecond(), Bent(), NotTheLastTwo()],
    "watermark": lambda: [transformers.WatermarkLogitsProcessor(300, "cpu", bias=60.0)],
    "a function": lambda: [
        lambda input_ids, scores: scores * (1 - 0.5 * ((input_ids[:, -1:] + torch.arange(1, 301)) % 2)),
    ],
}


MODELS = ["llama", "gemma3_text", "gpt2", "opt"]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    both = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    return repetitive(tiny_model(request.param, **both if request.param == "gemma3_text" else {}))


@pytest.mark.parametrize("name", MAKERS)
def test_greedy_is_that_of_transformers(model: Any, name: str) -> None:
    """Two of four drafts for each: every processor and every model meets all of them."""
    options: dict[str, Any] = {"max_new_tokens": 16}
    drafts: list[tuple[Any, str | None]] = [(NGRAM, None), ("mix", None)]
    if (list(MAKERS).index(name) + MODELS.index(model.config.model_type)) % 2:
        drafts = [(blurred(model, 0.01), "static"), ("none", None)]
    changed = 0
    for texts in (prompts(1, seed=5), prompts(4, seed=6)):
        inputs = batch(texts)
        given = transformers.LogitsProcessorList(MAKERS[name]())
        expected = model.generate(**inputs, **options, do_sample=False, logits_processor=given)
        for draft, tree in drafts:
            ours = outpace.accelerate(model, draft=draft, tree=tree)
            assert torch.equal(ours.generate(**inputs, **options, logits_processor=MAKERS[name]()), expected)
            assert ours.target.num_rows == 0
        plain = model.generate(**inputs, **options, do_sample=False)
        changed += plain.shape != expected.shape or not torch.equal(plain, expected)
    assert changed


@pytest.mark.parametrize("name", hostile(8))
def test_no_drafter_changes_it(name: str) -> None:
    model = repetitive(tiny_model("llama"))
    inputs = batch(prompts(3, seed=1))
    processors = [OfThePath(), NotTheLastTwo()]
    options: dict[str, Any] = {"max_new_tokens": 24, "logits_processor": processors}
    expected = model.generate(**inputs, **options, do_sample=False)
    ours = outpace.accelerate(model, draft=hostile(8)[name])
    assert torch.equal(ours.generate(**inputs, **options), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7, "sequence_bias": {(10,): 1.5, (5, 41): -3.0}},
        {"no_repeat_ngram_size": 2, "min_new_tokens": 9, "suppress_tokens": [*range(0, 300, 3)]},
        {"bad_words_ids": [[7], [9, 9]], "begin_suppress_tokens": [11, 12], "forced_eos_token_id": 13},
        {"forced_bos_token_id": 17, "encoder_no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.4},
        {"exponential_decay_length_penalty": (1, 3.0), "min_length": 4},
    ],
)
def test_they_come_behind_those_of_options(model: Any, options: dict[str, Any]) -> None:
    ours = outpace.accelerate(model, draft=NGRAM)
    changed = False
    for texts in (prompts(1, seed=7), prompts(4, seed=8), [[5]]):
        inputs = batch(texts) | {"max_new_tokens": 20, "logits_processor": [Bent(), OfThePath()]}
        expected = model.generate(**inputs, **options, do_sample=False)
        assert torch.equal(ours.generate(**inputs, **options), expected)
        without = ours.generate(**inputs)
        changed |= without.shape != expected.shape or not torch.equal(without, expected)
    assert changed


@pytest.mark.parametrize(
    ("custom", "options"),
    [
        (lambda: transformers.RepetitionPenaltyLogitsProcessor(3.0), {"repetition_penalty": 1.2}),
        (
            lambda: transformers.SequenceBiasLogitsProcessor({(10,): 2.0, (5,): 3.0}),
            {"sequence_bias": {(10,): -9.0}, "repetition_penalty": 2.0},
        ),
    ],
)
def test_one_of_a_type_that_an_option_makes_takes_its_place(
    model: Any, custom: Callable[[], Any], options: dict[str, Any]
) -> None:
    inputs = batch(prompts(3, seed=9)) | {"max_new_tokens": 20}
    given = [Bent(), custom()]
    expected = model.generate(**inputs, **options, do_sample=False, logits_processor=given)
    found = outpace.accelerate(model, draft=NGRAM).generate(**inputs, **options, logits_processor=given)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("rule", ["match", "speculative"])
def test_sampled_tokens_are_those_of_plain_decoding(rule: str) -> None:
    model = repetitive(tiny_model("llama"))
    inputs = batch(prompts(3, seed=2))
    options: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 3}
    options |= {"max_new_tokens": 24, "logits_processor": [Bent(), OfThePath()]}
    plain = outpace.accelerate(model, draft="none").generate(**inputs, **options)
    drafts = outpace.accelerate(model, draft=blurred(model, 0.01), tree="chain:length=4", rule=rule)
    assert rule != "match" or torch.equal(drafts.generate(**inputs, **options), plain)
    assert torch.equal(outpace.accelerate(model, draft="mix").generate(**inputs, **options), plain)
    options |= {"logits_processor": [EverySecond()], "eos_token_id": []}
    width = inputs["input_ids"].shape[1]
    places = torch.arange(24) + width
    assert ((drafts.generate(**inputs, **options)[:, width:] + places) % 2 == 1).all()


def test_a_pipeline_of_loops() -> None:
    model = tiny_looped()
    ids = torch.tensor([[5, 9, 9, 17, 5, 40, 9], [9, 8, 9, 8, 9, 8, 9]])
    given: dict[str, Any] = {"max_new_tokens": 30, "logits_processor": [OfThePath(), NotTheLastTwo()]}
    expected = model.generate(ids, do_sample=False, **given)
    for draft in ("speed", "ngram"):
        ours = outpace.accelerate(model, draft=draft)
        assert torch.equal(ours.generate(ids, **given), expected)
        assert torch.equal(ours.generate(ids[:1], **given), expected[:1])


def test_they_come_before_temperature_and_filters() -> None:
    model = tiny_model("llama")
    ids = torch.tensor([[4, 9, 2]])
    with torch.no_grad():
        scores = Bent()(ids, model(ids).logits[:, -1])
    differ = 0
    for seed in range(20):
        options: dict[str, Any] = {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "seed": seed}
        (token,) = choose(scores.numpy(), Sampling(**options), [3])
        found = outpace.accelerate(model).generate(
            ids, do_sample=True, max_new_tokens=1, logits_processor=[Bent()], **options
        )
        assert found[0, -1] == token
        with torch.no_grad():
            late = Bent()(ids, model(ids).logits[:, -1] / 0.6) * 0.6
        differ += choose(late.numpy(), Sampling(**options), [3]) != [token]
    assert differ > 2, "behind the temperature it would be another one"


@pytest.mark.parametrize("model_type", ["t5", "bart", "marian", "whisper"])
@pytest.mark.parametrize("name", ["path", "several"])
def test_encoder_decoders(model_type: str, name: str) -> None:
    model = settled(tiny_seq2seq(model_type))
    options: dict[str, Any] = {"max_new_tokens": 20, "logits_processor": MAKERS[name]()}
    rules = {"repetition_penalty": 1.3, "forced_bos_token_id": 8, "no_repeat_ngram_size": 3}
    for draft in (NGRAM, "mix", hostile(8)["garbage"]):
        ours = outpace.accelerate(model, draft=draft)
        for lengths in ([7], [4, 9, 2]):
            inputs = sources(model, lengths)
            for more in ({}, rules):
                expected = theirs(model, inputs, **options, **more)
                assert torch.equal(ours.generate(**inputs, **options, **more), expected)
    begin = {"decoder_input_ids": torch.tensor([[model.config.decoder_start_token_id, 8, 9, 8]] * 3)}
    expected = theirs(model, inputs, **options, **begin)
    assert torch.equal(ours.generate(**inputs, **options, **begin), expected)


def test_only_nodes_whose_choice_is_read_are_asked_about() -> None:
    model = repetitive(tiny_model("llama"))
    seen: list[tuple[int, ...]] = []

    def watch(input_ids: Any, scores: Any) -> Any:
        assert input_ids.dtype == torch.int64 and scores.dtype == torch.float32
        assert (input_ids.shape[0], scores.shape, scores.requires_grad) == (1, (1, 300), False)
        seen.append(tuple(input_ids[0].tolist()))
        return scores

    ids = torch.tensor([[5, 6, 7, 5, 6]])
    options: dict[str, Any] = {"max_new_tokens": 30, "eos_token_id": [], "logits_processor": [watch]}
    for draft in (NGRAM, hostile(300)["everything"], "mix"):
        seen.clear()
        ours = outpace.accelerate(model, draft=draft)
        (result,) = ours.generations(ids, **options)
        assert result.stats.num_drafted > 10
        text = [*ids[0].tolist(), *result.token_ids]
        # Twice about the first node, to find out whether it gives the same again.
        assert seen == [tuple(text[:5]), *(tuple(text[:n]) for n in range(5, 35))]


def test_rows_have_their_numbers_in_prefix_allowed_tokens_fn(model: Any) -> None:
    def allowed(row: int, tokens: Any) -> list[int]:
        last = int(tokens[-1])
        return [(last * 7 + row * 31 + 1) % 300, (last * 11 + len(tokens)) % 300, 5 + row]

    ours = outpace.accelerate(model, draft=NGRAM)
    for texts in (prompts(1, seed=3), prompts(3, seed=4)):
        inputs = batch(texts) | {"max_new_tokens": 20, "prefix_allowed_tokens_fn": allowed}
        for more in ({}, {"logits_processor": [Bent()]}):
            expected = model.generate(**inputs, **more, do_sample=False)
            assert torch.equal(ours.generate(**inputs, **more), expected)


def test_a_processor_that_raises_leaves_nothing_behind() -> None:
    model = repetitive(tiny_model("llama"))
    inputs = batch(prompts(3, seed=2))
    ours = outpace.accelerate(model, draft=NGRAM)
    expected = ours.generate(**inputs, max_new_tokens=20)
    long = int(inputs["attention_mask"].sum(1).argmax())

    def wrong(input_ids: Any, scores: Any) -> Any:
        if input_ids[0, 0] == inputs["input_ids"][long, 0] and input_ids.shape[1] > 18:
            raise ArithmeticError("of the user's")
        return scores

    with pytest.raises(ArithmeticError, match="of the user's"):
        ours.generate(**inputs, max_new_tokens=20, logits_processor=[wrong])
    assert ours.target.num_rows == 0
    assert torch.equal(ours.generate(**inputs, max_new_tokens=20), expected)


class Counts(transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.count += 1
        return scores + self.count * torch.arange(scores.shape[1])


class Half(transformers.LogitsProcessor):  # type: ignore[misc, name-defined]
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores.half()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([Counts()], "Counts gives other scores when it is asked about one text again"),
        ([Half()], r"Half returns torch.float16\[1, 300\], accepted is torch.float32\[1, 300\]"),
        ([lambda ids, scores: scores[0]], r"<lambda> returns torch.float32\[300\], accepted"),
        ([lambda ids, scores: scores[:, :9]], r"<lambda> returns torch.float32\[1, 9\], accepted"),
        ([lambda ids, scores: None], "<lambda> returns a NoneType, accepted"),
        (Bent(), "accepted are a LogitsProcessorList and a list"),
        ([Bent], "accepted are objects that are called"),
        ([3], "logits_processor has 3, accepted"),
        ([transformers.LogitsProcessorList([Bent()])], "accepted are objects that are called"),
        ([lambda ids, scores: scores * torch.nan], "no token to choose"),
        (
            [transformers.EncoderNoRepeatNGramLogitsProcessor(2, torch.tensor([[1, 2, 3]]))],
            "give encoder_no_repeat_ngram_size",
        ),
        (
            [transformers.PrefixConstrainedLogitsProcessor(lambda row, ids: [1], 1)],
            "give prefix_allowed_tokens_fn",
        ),
        ([transformers.ClassifierFreeGuidanceLogitsProcessor(1.5)], "of two texts at once"),
        (
            [transformers.SynthIDTextWatermarkLogitsProcessor(5, [1, 2], 9, 9, 9, "cpu")],
            "SynthIDTextWatermarkLogitsProcessor, which keeps a state",
        ),
        (
            [transformers.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, None)],
            "keeps a cache from call to call",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused_in_one_line(given: Any, why: str) -> None:
    ours = outpace.accelerate(tiny_model("llama"))
    with pytest.raises(OutpaceError, match=why) as error:
        ours.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, logits_processor=given)
    assert str(error.value).isprintable()
    assert ours.target.num_rows == 0


@pytest.mark.parametrize(
    "option",
    [
        {"prefix_allowed_tokens_fn": 3},
        {"encoder_repetition_penalty": "x"},
        {"encoder_repetition_penalty": 0.0},
        {"exponential_decay_length_penalty": 3},
        {"exponential_decay_length_penalty": (3, "x")},
    ],
)
def test_options_that_make_processors_are_checked(option: dict[str, Any]) -> None:
    with pytest.raises(OutpaceError, match=rf"{next(iter(option))} is .*accepted are"):
        outpace.accelerate(tiny_model("llama")).generate(torch.tensor([[5, 6, 7]]), **option)


def test_none_and_an_empty_list_are_none(model: Any) -> None:
    inputs = batch(prompts(2, seed=2)) | {"max_new_tokens": 12}
    ours = outpace.accelerate(model)
    expected = ours.generate(**inputs)
    nothings: list[Any] = [None, [], transformers.LogitsProcessorList()]
    for nothing in nothings:
        assert torch.equal(ours.generate(**inputs, logits_processor=nothing), expected)
        assert torch.equal(ours.generate(**inputs, stopping_criteria=nothing), expected)


def test_no_weights_are_trained_by_it() -> None:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 300))
    model = repetitive(tiny_model("llama"))
    options: dict[str, Any] = {
        "max_new_tokens": 12,
        "logits_processor": [lambda ids, scores: scores + weight],
    }
    ids = torch.tensor([[5, 6, 7]])
    expected = model.generate(ids, do_sample=False, **options)
    assert torch.equal(outpace.accelerate(model).generate(ids, **options), expected)
    assert np.isfinite(weight.detach().numpy()).all() and weight.grad is None
