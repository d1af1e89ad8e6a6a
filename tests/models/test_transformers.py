"""`accelerate(model).generate` against `model.generate` itself: the same tokens, options and padding."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.contracts import Drafter  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.drafters.lookup.ngram import NGram  # noqa: E402
from outpace.drafters.model.speed import Speed  # noqa: E402
from outpace.models.generation_config import OPTIONS  # noqa: E402
from outpace.trees.chain import Chain  # noqa: E402
from tests.fake_models import EOS_ID, write_gguf, write_tokenizer  # noqa: E402
from tests.fakes import hostile  # noqa: E402
from tests.hf_families import tiny_looped, tiny_model  # noqa: E402
from tests.laws import g_test  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet")
PAD_ID = 299


@pytest.fixture(scope="module", params=["llama", "gemma3_text", "gpt2", "opt"])
def model(request: pytest.FixtureRequest) -> Any:
    both = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    return repetitive(tiny_model(request.param, **both if request.param == "gemma3_text" else {}))


def repetitive(model: Any) -> Any:
    """A model whose text soon repeats itself (random ones do) and sometimes ends, on one of some tokens."""
    texts = prompts(6)
    model.generation_config.pad_token_id = PAD_ID
    model.generation_config.eos_token_id = []
    lengths = {"max_new_tokens": 16, "min_new_tokens": 16}
    ends = [model.generate(torch.tensor([text]), **lengths, do_sample=False)[0, -1] for text in texts]
    model.generation_config.eos_token_id = [EOS_ID, *map(int, ends)]
    return model


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 290, rng.integers(1, 14)).tolist() for _ in range(count)]


def batch(texts: list[list[int]]) -> dict[str, Any]:
    """Padded on the left, as decoder-only models want it."""
    width = max(map(len, texts))
    ids = [[PAD_ID] * (width - len(text)) + text for text in texts]
    mask = [[0] * (width - len(text)) + [1] * len(text) for text in texts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("draft", ["none", "ngram:min_n=1,max_n=2,length=5"])
def test_greedy_is_that_of_transformers(model: Any, draft: str) -> None:
    ours = outpace.accelerate(model, draft=draft)
    ended = 0
    texts = prompts(40)
    for text in texts[:24]:
        inputs = batch([text])
        expected = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        assert torch.equal(ours.generate(**inputs, max_new_tokens=40), expected)
        ended += expected.shape[1] < len(text) + 40
    assert 0 < ended < 24
    for start in range(0, 40, 4):
        inputs = batch(texts[start : start + 4])
        expected = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        assert torch.equal(ours.generate(**inputs, max_new_tokens=40), expected)
    assert ours.target.num_rows == 0


@pytest.mark.parametrize("name", hostile(8))
def test_no_drafter_changes_it(name: str) -> None:
    model = repetitive(tiny_model("llama"))
    drafter: Drafter = hostile(8)[name]
    inputs = batch(prompts(4, seed=1))
    expected = model.generate(**inputs, max_new_tokens=30, do_sample=False)
    assert torch.equal(
        outpace.accelerate(model, draft=drafter).generate(**inputs, max_new_tokens=30), expected
    )


def blurred(model: Any, noise: float) -> Any:
    """A copy that mostly agrees."""
    draft = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter += noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return draft


@pytest.mark.parametrize("tree", [None, "chain:length=6"])
def test_a_draft_model(model: Any, tree: str | None) -> None:
    ours = outpace.accelerate(model, draft=blurred(model, 0.01), tree=tree)
    for texts in (prompts(1, seed=2), prompts(4, seed=3)):
        inputs = batch(texts)
        expected = model.generate(**inputs, max_new_tokens=30, do_sample=False)
        assert torch.equal(ours.generate(**inputs, max_new_tokens=30), expected)
        results = ours.generations(**inputs, max_new_tokens=30, eos_token_id=[])
        # Without a tree the draft is as deep as pays, and a draft model of the model's size does not.
        assert tree is None or all(result.stats.mean_accepted_length > 2 for result in results)


def test_a_named_draft_takes_another_tree_per_call(tmp_path: Path) -> None:
    write_gguf(tmp_path / "draft.gguf", "llama")
    model = repetitive(tiny_model("llama"))
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    name = f"small_model:model={tmp_path / 'draft.gguf'}"
    inputs = batch(prompts(1))
    expected = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    calls: list[dict[str, Any]] = [
        {},
        {"tree": "static"},
        {"tree": None},
        {"draft": "ngram"},
        {"draft": None},
    ]
    for own in (None, "chain:length=2"):
        ours = outpace.accelerate(model, tokenizer, draft=name, tree=own)
        assert ours.drafter() is ours.drafter(name, tree=own) is not ours.drafter(tree="static")
        for given in calls:
            assert torch.equal(ours.generate(**inputs, max_new_tokens=12, **given), expected)
    made = outpace.accelerate(model, tokenizer, draft=name, tree=Chain(length=2))
    assert made.drafter() is made.drafter()
    for whole in (made, outpace.accelerate(model, draft=blurred(model, 0.01))):
        with pytest.raises(OutpaceError, match="give the Drafter its own tree"):
            whole.generate(**inputs, tree="static")


def test_a_draft_model_of_another_vocabulary_needs_both_tokenizers(tmp_path: Path) -> None:
    model, other = tiny_model("llama"), tiny_model("llama", vocab_size=320)
    with pytest.raises(OutpaceError, match=r"320 tokens and the model 300.*draft_tokenizer"):
        outpace.accelerate(model, draft=other)
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = outpace.accelerate(model, tokenizer, draft=other, draft_tokenizer=tokenizer)
    inputs = batch(prompts(1))
    expected = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert torch.equal(ours.generate(**inputs, max_new_tokens=20), expected)
    with pytest.raises(OutpaceError, match="accepted are both or none"):
        outpace.accelerate(model, draft=other, draft_tokenizer=tokenizer)
    with pytest.raises(OutpaceError, match="as draft"):
        outpace.accelerate(model, draft_tokenizer=tokenizer)


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_defaults_are_those_of_the_generation_config() -> None:
    model = repetitive(tiny_model("llama"))
    ours = outpace.accelerate(model)
    inputs = batch(prompts(3, seed=4))
    assert torch.equal(ours.generate(**inputs), model.generate(**inputs))
    for name, value in (("max_new_tokens", 9), ("max_length", 33), ("eos_token_id", 11)):
        setattr(model.generation_config, name, value)
        assert torch.equal(ours.generate(**inputs), model.generate(**inputs))
        given = {"max_new_tokens": 25, "eos_token_id": [12, 13], "pad_token_id": 5}
        assert torch.equal(ours.generate(**inputs, **given), model.generate(**inputs, **given))
    # Without a mask, what equals the pad token is padding.
    ids = inputs["input_ids"]
    assert torch.equal(ours.generate(ids, max_new_tokens=8), model.generate(ids, max_new_tokens=8))


def test_length_reached_before_the_first_token_is_refused() -> None:
    model = repetitive(tiny_model("llama"))
    with pytest.raises(OutpaceError, match="max_length > 12"):
        outpace.accelerate(model).generate(torch.ones((1, 12), dtype=torch.long), max_length=12)


@pytest.mark.parametrize(
    "option",
    [{"num_beams": 4}, {"penalty_alpha": 0.6}, {"nonsense": 1}, {"output_scores": True}],
)
def test_other_options_are_refused_by_name(option: dict[str, Any]) -> None:
    ours = outpace.accelerate(tiny_model("llama"))
    with pytest.raises(OutpaceError, match=f"no option {next(iter(option))}") as error:
        ours.generate(torch.ones((1, 3), dtype=torch.long), **option)
    assert all(name in str(error.value) for name in OPTIONS)


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_the_models_own_settings_are_not_ignored() -> None:
    model = repetitive(tiny_model("llama"))
    ours = outpace.accelerate(model)
    inputs = batch(prompts(1))
    neutral = {"num_beams": 1, "penalty_alpha": 0.0, "use_cache": True}
    assert torch.equal(ours.generate(**inputs, **neutral), ours.generate(**inputs))
    model.generation_config.repetition_penalty = 1.3
    assert torch.equal(ours.generate(**inputs), model.generate(**inputs, do_sample=False))
    assert not torch.equal(ours.generate(**inputs), ours.generate(**inputs, repetition_penalty=1.0))
    model.generation_config.guidance_scale = 1.3
    with pytest.raises(OutpaceError, match=r"guidance_scale=1\.3.*pass guidance_scale=1\.0"):
        ours.generate(**inputs)
    model.generation_config.guidance_scale = None
    assert torch.equal(
        ours.generate(**inputs, repetition_penalty=1.0), model.generate(**inputs, repetition_penalty=1.0)
    )


def test_wrong_batches_are_refused() -> None:
    ours = outpace.accelerate(tiny_model("llama"))
    ids = torch.ones((2, 3), dtype=torch.long)
    for mask, why in (([[1, 1, 0], [1, 1, 1]], "padding on the left"), ([[1, 1]], "shape")):
        with pytest.raises(OutpaceError, match=why):
            ours.generate(ids, torch.tensor(mask))
    with pytest.raises(OutpaceError, match="shape"):
        ours.generate(ids[0])
    with pytest.raises(OutpaceError, match="empty"):
        ours.generate(ids, torch.zeros_like(ids))


def test_sampling_is_seeded_and_the_same_with_drafts() -> None:
    model = repetitive(tiny_model("llama"))
    inputs = batch([[5, 6, 7, 5, 6], [5, 6, 7, 5, 6]])
    options: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 30}
    plain = outpace.accelerate(model, draft="none").generate(**inputs, **options, seed=3)
    drafted = outpace.accelerate(model, draft="ngram:length=4").generate(**inputs, **options, seed=3)
    assert torch.equal(plain, drafted)
    assert not torch.equal(plain[0], plain[1]), "rows of a batch have noise of their own"
    other = outpace.accelerate(model).generate(**inputs, **options, seed=4)
    assert other.shape != plain.shape or not torch.equal(other, plain)
    alone = outpace.accelerate(model).generate(inputs["input_ids"][:1], **options, seed=3)
    assert torch.equal(alone[0], plain[0, : alone.shape[1]])


def test_sampled_tokens_have_the_law_of_transformers() -> None:
    """Both against the exact law of the first token, at a false-alarm rate of one in a million each."""
    model = tiny_model("llama")
    options: dict[str, Any] = {"temperature": 1.1, "top_k": 12, "top_p": 0.85, "min_p": 0.05}
    ids = torch.tensor([[4, 9, 2]])
    with torch.no_grad():
        logits = model(ids).logits[0, -1].numpy()
    law = outpace.core.sampling.warp(logits, Sampling(**options))
    ours = outpace.accelerate(model, draft="none")
    many = ids.repeat(2000, 1)
    drawn = {
        "ours": ours.generate(many, do_sample=True, max_new_tokens=1, **options)[:, -1],
        "theirs": model.generate(many, do_sample=True, max_new_tokens=1, pad_token_id=0, **options)[:, -1],
    }
    for tokens in drawn.values():
        counts = np.bincount(tokens.numpy(), minlength=300)
        assert set(np.flatnonzero(counts)) <= set(np.flatnonzero(law))
        assert g_test(tokens.tolist(), dict(enumerate(law.tolist()))) > 1e-6


def test_text_in_and_text_out(tmp_path: Path) -> None:
    model = repetitive(tiny_model("llama"))
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = outpace.accelerate(model, tokenizer)
    ids = tokenizer("the rain in", return_tensors="pt").input_ids
    expected = model.generate(ids, max_new_tokens=25)[0, ids.shape[1] :]
    result = ours.generate("the rain in", raw=True, max_new_tokens=25)
    assert result.token_ids == expected.tolist()
    assert result.text == tokenizer.decode(expected, skip_special_tokens=True)
    assert "".join(ours.stream("the rain in", raw=True, max_new_tokens=25)) == result.text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    expected = model.generate(**chat, max_new_tokens=25)[0, chat["input_ids"].shape[1] :]
    assert ours.generate("hi", max_new_tokens=25).token_ids == expected.tolist()
    with pytest.raises(OutpaceError, match="tokenizer"):
        outpace.accelerate(model).generate("hi")


@pytest.mark.parametrize("many", [False, True])
def test_a_looped_model_drafts_for_itself(many: bool) -> None:
    """As `load` has it: speed where nothing is named; rules and drafts that are named have what they had."""
    model = tiny_looped()
    prompts = [outpace.Prompt([1, 2, 3]), outpace.Prompt([4, 5])][: 1 + many]
    ours = outpace.accelerate(model)
    assert isinstance(ours.drafter(), Speed)
    got, plain = (ours.generate(prompts, max_tokens=12, **more) for more in ({}, {"draft": None}))
    for one, other in zip(got, plain, strict=True):
        assert one.token_ids == other.token_ids
        assert one.stats.num_passes > 0 == other.stats.num_passes
    for other in (outpace.accelerate(model, rule="topk"), outpace.accelerate(model, draft="ngram")):
        assert isinstance(other.drafter(), NGram)
    assert ours.generate(prompts, max_tokens=5, rule="topk")[0].stats.num_passes == 0
    assert isinstance(outpace.accelerate(tiny_model("llama")).drafter(), NGram)
    with pytest.raises(OutpaceError, match="takes no tree"):
        outpace.accelerate(model, tree="chain")
