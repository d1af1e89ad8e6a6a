"""A user's stopping criteria, token by token, against `model.generate` with the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from tests.fake_models import write_tokenizer  # noqa: E402
from tests.fakes import hostile  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402
from tests.models.test_seq2seq import settled, theirs  # noqa: E402
from tests.models.test_transformers import batch, prompts, repetitive  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet")
NGRAM = "ngram:min_n=1,max_n=2,length=5"


class SumOf(transformers.StoppingCriteria):  # type: ignore[misc, name-defined]
    """Ends a text whose last tokens have a sum with this remainder, which drafts run past."""

    def __init__(self, modulus: int = 7) -> None:
        self.modulus = modulus

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        assert scores is None
        return input_ids[:, -3:].sum(1) % self.modulus == 0


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return repetitive(tiny_model(request.param))


@pytest.mark.parametrize("draft", ["none", NGRAM, "mix"])
def test_texts_end_where_those_of_transformers_do(model: Any, draft: str) -> None:
    ours = outpace.accelerate(model, draft=draft)
    lengths = set()
    for seed, count in enumerate((1, 1, 1, 3, 4)):
        inputs = batch(prompts(count, seed=seed)) | {"max_new_tokens": 30}
        for given in ([SumOf()], transformers.StoppingCriteriaList([SumOf(11), SumOf(13)])):
            expected = model.generate(**inputs, do_sample=False, stopping_criteria=given)
            assert torch.equal(ours.generate(**inputs, stopping_criteria=given), expected)
            results = ours.generations(**inputs, stopping_criteria=given)
            lengths |= {(len(one.token_ids), one.finish_reason) for one in results}
    assert len({length for length, reason in lengths if reason == "stop"}) > 3


@pytest.mark.parametrize("name", ["garbage", "everything", "too deep"])
def test_every_kept_token_is_asked_about_once_and_in_order(name: str) -> None:
    model = repetitive(tiny_model("llama"))
    seen: list[list[int]] = []

    def stops(input_ids: Any, scores: Any) -> bool:
        seen.append(input_ids[0].tolist())
        return input_ids.shape[1] == 19

    ids = torch.tensor([[5, 6, 7, 5, 6]])
    ours = outpace.accelerate(model, draft=hostile(300)[name])
    found = ours.generate(ids, max_new_tokens=40, eos_token_id=[], stopping_criteria=[stops])
    assert found.shape == (1, 19)
    assert seen == [found[0, :n].tolist() for n in range(6, 20)]


def test_encoder_decoders() -> None:
    for model_type in ("t5", "bart"):
        model = settled(tiny_seq2seq(model_type))
        ours = outpace.accelerate(model, draft=NGRAM)
        for lengths in ([7], [4, 9, 2]):
            inputs = sources(model, lengths)
            options: dict[str, Any] = {"max_new_tokens": 30, "stopping_criteria": [SumOf(5)]}
            expected = theirs(model, inputs, **options)
            assert torch.equal(ours.generate(**inputs, **options), expected)


def test_stop_strings(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = repetitive(tiny_model("llama"))
    ours, bare = outpace.accelerate(model, tokenizer, draft=NGRAM), outpace.accelerate(model)
    ids = tokenizer("the rain in", return_tensors="pt").input_ids
    whole = model.generate(ids, max_new_tokens=30, do_sample=False)
    text = tokenizer.decode(whole[0, ids.shape[1] + 5 : ids.shape[1] + 8])
    options: dict[str, Any] = {"max_new_tokens": 30, "stop_strings": [text, "never written"]}
    expected = model.generate(ids, do_sample=False, tokenizer=tokenizer, **options)
    assert expected.shape[1] < whole.shape[1]
    assert torch.equal(ours.generate(ids, **options), expected)
    assert torch.equal(bare.generate(ids, tokenizer=tokenizer, **options), expected)
    alone = ours.generate("the rain in", raw=True, **options)
    assert alone.token_ids == expected[0, ids.shape[1] :].tolist()
    custom = transformers.StopStringCriteria(tokenizer=tokenizer, stop_strings=text)
    assert torch.equal(ours.generate(ids, max_new_tokens=30, stopping_criteria=[custom]), expected)
    with pytest.raises(OutpaceError, match="stop_strings needs the tokenizer"):
        bare.generate(ids, **options)
    for wrong in (3, ["a", 3], [""]):
        with pytest.raises(OutpaceError, match="accepted are a text, a list of texts"):
            ours.generate(ids, stop_strings=wrong)


def test_one_that_raises_leaves_nothing_behind() -> None:
    model = repetitive(tiny_model("llama"))
    ours = outpace.accelerate(model, draft=NGRAM)
    inputs = batch(prompts(3, seed=2)) | {"max_new_tokens": 20}

    def wrong(input_ids: Any, scores: Any) -> bool:
        if input_ids.shape[1] > 20:
            raise ArithmeticError("of the user's")
        return False

    with pytest.raises(ArithmeticError, match="of the user's"):
        ours.generate(**inputs, stopping_criteria=[wrong])
    assert ours.target.num_rows == 0
    assert torch.equal(ours.generate(**inputs), model.generate(**inputs, do_sample=False))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([transformers.MaxTimeCriteria(3.0)], "MaxTimeCriteria, which reads the clock"),
        ([transformers.MaxLengthCriteria(9)], "give max_length"),
        ([transformers.EosTokenCriteria(9)], "give eos_token_id"),
        ([transformers.StoppingCriteriaList([transformers.MaxLengthCriteria(9)])], "give max_length"),
        (SumOf(), "accepted are a StoppingCriteriaList and a list"),
        ([SumOf], "accepted are objects that are called"),
        ([lambda ids, scores: None], "<lambda> returns a NoneType, accepted are"),
        ([lambda ids, scores: ids > 3], r"<lambda> returns torch.bool\[1, 4\], accepted are"),
        ([lambda ids, scores: torch.tensor([1])], r"<lambda> returns torch.int64\[1\], accepted are"),
    ],
)
def test_what_cannot_be_exact_is_refused_in_one_line(given: Any, why: str) -> None:
    ours = outpace.accelerate(tiny_model("llama"))
    with pytest.raises(OutpaceError, match=why) as error:
        ours.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, stopping_criteria=given)
    assert str(error.value).isprintable()
    with pytest.raises(OutpaceError, match="max_time"):
        ours.generate(torch.tensor([[5, 6, 7]]), max_time=3.0)


def test_rows_without_an_end_token_are_refused() -> None:
    """transformers writes on behind the end of a row there, until the last one ends."""
    ours = outpace.accelerate(tiny_model("llama"))
    inputs = batch(prompts(2)) | {"eos_token_id": None, "stopping_criteria": [SumOf()]}
    with pytest.raises(OutpaceError, match="without an eos_token_id is one row"):
        ours.generate(**inputs, max_new_tokens=5)
