"""`accelerate(model).generate` of encoder-decoder models against `model.generate` itself: the same tokens."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.core.call import Prompt  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.turns import turns_of  # noqa: E402
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget  # noqa: E402
from tests.fake_models import EOS_ID, write_tokenizer  # noqa: E402
from tests.fakes import hostile  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import PAD_ID, START_ID, sources, tiny_seq2seq  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet")
MODEL_TYPES = ["t5", "bart", "marian", "whisper", "mbart", "m2m_100"]
LENGTHS = [[7, 3, 12, 5], [4, 9, 2, 6]]


def settled(model: Any) -> Any:
    """A model whose texts sometimes end: two tokens do it that it writes when left alone."""
    config = model.generation_config
    config.max_length, config.eos_token_id = None, []
    alone = theirs(model, sources(model, LENGTHS[0]), max_new_tokens=40)
    config.eos_token_id = [EOS_ID, int(alone[0, 14]), int(alone[2, 30])]
    return model


@pytest.fixture(scope="module", params=MODEL_TYPES)
def model(request: pytest.FixtureRequest) -> Any:
    return settled(tiny_seq2seq(request.param))


def theirs(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    """What transformers generates. Whisper's own way around it cuts start and end off."""
    if model.config.model_type == "whisper":
        return transformers.GenerationMixin.generate(model, **inputs, do_sample=False, num_beams=1, **options)
    return model.generate(**inputs, do_sample=False, num_beams=1, **options)


def one(inputs: dict[str, Any], row: int, length: int) -> dict[str, Any]:
    alone = {name: values[row : row + 1] for name, values in inputs.items()}
    return {name: v[:, :length] for name, v in alone.items()} if "input_ids" in alone else alone


@pytest.mark.parametrize("draft", ["none", "ngram:min_n=1,max_n=2,length=5", "recycling", "copy", "mix"])
def test_greedy_is_that_of_transformers(model: Any, draft: str) -> None:
    ours = outpace.accelerate(model, draft=draft)
    ends = set()
    for seed, lengths in enumerate(LENGTHS):
        inputs = sources(model, lengths, seed=seed)
        for row, length in enumerate(lengths):
            alone = one(inputs, row, length)
            expected = theirs(model, alone, max_new_tokens=40)
            assert torch.equal(ours.generate(**alone, max_new_tokens=40), expected)
            ends.add(expected.shape[1])
        expected = theirs(model, inputs, max_new_tokens=40)
        assert torch.equal(ours.generate(**inputs, max_new_tokens=40), expected)
    assert len(ends) > 1, "texts end at different places"
    assert isinstance(ours.target, HfSeq2SeqTarget)
    assert (ours.target.num_rows, ours.target.num_sources) == (0, 0)


@pytest.mark.parametrize("ends", [[EOS_ID], [EOS_ID, PAD_ID, 1], []])
@pytest.mark.parametrize("model_type", ["t5", "bart", "m2m_100"])
def test_sources_without_a_mask_are_those_of_transformers(model_type: str, ends: list[int]) -> None:
    model = tiny_seq2seq(model_type)
    options = {"max_new_tokens": 12, "eos_token_id": ends}
    for lengths in ([12, 2], [1, 9, 4]):
        inputs = sources(model, lengths)
        del inputs["attention_mask"]
        got = outpace.accelerate(model).generate(**inputs, **options)
        assert torch.equal(got, theirs(model, inputs, **options))


@pytest.mark.parametrize("name", hostile(8))
@pytest.mark.parametrize("model_type", ["t5", "bart", "marian", "whisper"])
def test_no_drafter_changes_it(model_type: str, name: str) -> None:
    model = settled(tiny_seq2seq(model_type))
    inputs = sources(model, [6, 2, 9, 4], seed=3)
    ours = outpace.accelerate(model, draft=hostile(8)[name])
    assert torch.equal(ours.generate(**inputs, max_new_tokens=25), theirs(model, inputs, max_new_tokens=25))
    alone = one(inputs, 0, 6)
    assert torch.equal(ours.generate(**alone, max_new_tokens=25), theirs(model, alone, max_new_tokens=25))


def test_trees_are_accepted_along_the_right_branch() -> None:
    """A drafter that knows the answer, on one branch of its tree: that branch is taken whole."""
    from outpace.core.tree import TokenTree
    from tests.fakes import Hostile

    model = settled(tiny_seq2seq("t5"))
    inputs = sources(model, [7])
    answer = theirs(model, inputs, max_new_tokens=30, eos_token_id=[]).tolist()[0]

    def branches(ask: Any, rng: Any) -> TokenTree:
        right = answer[ask.position + 1 : ask.position + 4]
        tokens, parents = [ask.root], [-1]
        for depth, token in enumerate(right):
            above = 0 if depth == 0 else len(tokens) - 1
            tokens += [(token + 1) % 300, (token + 2) % 300, token]
            parents += [above] * 3
        return TokenTree(tokens, parents)

    ours = outpace.accelerate(model, draft=Hostile(branches))
    (result,) = ours.generations(**inputs, max_new_tokens=30, eos_token_id=[])
    assert result.token_ids == answer[1:] and result.stats.mean_accepted_length > 2.5


def test_forced_and_suppressed_tokens() -> None:
    model = settled(tiny_seq2seq("mbart"))
    inputs = sources(model, [7, 3, 12, 5])
    free = theirs(model, inputs, max_new_tokens=12)
    settings: list[dict[str, Any]] = [
        {"forced_bos_token_id": 77},
        {"forced_eos_token_id": EOS_ID},
        {"suppress_tokens": free[:, 2].tolist(), "begin_suppress_tokens": free[:, 1].tolist()},
        {"begin_suppress_tokens": free[:, 1:].flatten().tolist()},
        {"bad_words_ids": [[token] for token in free[:, 3].tolist()]},
        {"forced_bos_token_id": 77, "forced_eos_token_id": EOS_ID, "begin_suppress_tokens": [9, 10, 11]},
    ]
    for setting in settings:
        expected = theirs(model, inputs, max_new_tokens=12, **setting)
        assert expected.shape != free.shape or not torch.equal(expected, free)
        for draft in ("none", "ngram:min_n=1", "recycling"):
            ours = outpace.accelerate(model, draft=draft)
            assert torch.equal(ours.generate(**inputs, max_new_tokens=12, **setting), expected)
            for name, value in setting.items():
                setattr(model.generation_config, name, value)
            assert torch.equal(ours.generate(**inputs, max_new_tokens=12), expected)
            for name in setting:
                setattr(model.generation_config, name, None)


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_lengths_and_given_beginnings() -> None:
    model = settled(tiny_seq2seq("bart"))
    inputs = sources(model, [7, 3])
    ours = outpace.accelerate(model)
    begin = torch.tensor([[START_ID, 50, 60], [START_ID, 70, 80]])
    cases: list[dict[str, Any]] = [
        {},
        {"max_length": 9},
        {"max_length": 9, "forced_bos_token_id": 7},
        {"forced_bos_token_id": 7},
        {"max_new_tokens": 6, "decoder_input_ids": begin},
        {"max_new_tokens": 6, "decoder_input_ids": begin, "forced_bos_token_id": 7},
        {"max_new_tokens": 6, "decoder_input_ids": begin[:, :1], "forced_bos_token_id": 7},
    ]
    for case in cases:
        assert torch.equal(ours.generate(**inputs, **case), theirs(model, inputs, **case))
    with pytest.raises(OutpaceError, match=r"of shape \(3,\), accepted are tensors: input_ids \[B, S\]"):
        ours.generate(torch.ones(3, dtype=torch.long))
    with pytest.raises(OutpaceError, match="the sources are missing"):
        ours.generate()
    with pytest.raises(OutpaceError, match="accepted are as many as sources, 2"):
        ours.generate(**inputs, decoder_input_ids=begin[:1].repeat(3, 1))


def test_whisper_begins_as_its_configuration_says() -> None:
    model = settled(tiny_seq2seq("whisper"))
    config = model.generation_config
    inputs = sources(model, [1, 1])
    config.lang_to_id, config.task_to_id = {"<|en|>": 21, "<|de|>": 22}, {"translate": 31, "transcribe": 32}
    config.no_timestamps_token_id, config.is_multilingual = 33, True
    config.suppress_tokens, config.begin_suppress_tokens = [40, 41], [50]
    ours = outpace.accelerate(model, draft="ngram:min_n=1")
    with pytest.raises(OutpaceError, match="accepted are de, en, or decoder_input_ids"):
        ours.generate(**inputs)
    for options, begin in (
        ({"language": "de"}, [START_ID, 22, 32, 33]),
        ({"language": "en", "task": "translate"}, [START_ID, 21, 31, 33]),
    ):
        expected = model.generate(
            **inputs, **options, max_new_tokens=20, force_unique_generate_call=True, return_timestamps=False
        )
        output = ours.generate(**inputs, **options, max_new_tokens=20)
        assert output[:, :4].tolist() == [begin] * 2
        assert torch.equal(output, expected)
    config.return_timestamps = True
    with pytest.raises(OutpaceError, match="return_timestamps=True"):
        ours.generate(**inputs, language="de")


def test_text_in_and_text_out(tmp_path: Path) -> None:
    model = settled(tiny_seq2seq("t5"))
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = outpace.accelerate(model, tokenizer)
    ids = tokenizer("the rain in", return_tensors="pt").input_ids
    expected = theirs(model, {"input_ids": ids}, max_new_tokens=25)[0, 1:]
    result = ours.generate("the rain in", max_new_tokens=25)
    assert result.token_ids == expected.tolist()
    assert result.text == tokenizer.decode(expected, skip_special_tokens=True)
    stream = ours.stream("the rain in", max_new_tokens=25)
    pieces = "".join(stream)
    assert stream.result.token_ids == result.token_ids and pieces == stream.result.text
    with pytest.raises(OutpaceError, match="tokenizer"):
        outpace.accelerate(model).generate("hi")


def test_sampling_is_seeded_and_the_same_with_drafts() -> None:
    model = settled(tiny_seq2seq("t5"))
    inputs = sources(model, [5, 8])
    options: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 30}
    plain = outpace.accelerate(model, draft="none").generate(**inputs, **options, seed=3)
    assert torch.equal(outpace.accelerate(model).generate(**inputs, **options, seed=3), plain)
    other = outpace.accelerate(model).generate(**inputs, **options, seed=4)
    assert other.shape != plain.shape or not torch.equal(other, plain)


@pytest.mark.parametrize("text", ["a", torch.tensor([[5, 6]])])
def test_the_encoder_runs_in_a_turn(text: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours: Any = outpace.accelerate(tiny_seq2seq("t5"), tokenizer)
    held, encode = list[int](), ours.target.encode

    def watched(*inputs: Any) -> Any:
        other = threading.Thread(target=lambda: held.append(turns_of(ours.target)._depth))
        other.start()
        other.join()
        return encode(*inputs)

    monkeypatch.setattr(ours.target, "encode", watched)
    ours.generate(text, max_new_tokens=3)
    assert held == [1]
    ours.close()
    with pytest.raises(OutpaceError, match="closed, accepted is"):
        ours.generate(text, max_new_tokens=3)
    assert held == [1], "the encoder of a closed model does not run"


def test_a_stop_without_a_tokenizer_is_refused() -> None:
    ours: Any = outpace.accelerate(tiny_seq2seq("t5"))
    prompt = Prompt([START_ID], ours.target.encode(torch.tensor([[5, 6]]))[0])
    for stop in ("a", ["a", "b"]):
        with pytest.raises(OutpaceError, match="no fast tokenizer, accepted is generate without stop"):
            ours.generate(prompt, stop=stop)


def test_copy_drafts_from_the_source() -> None:
    """The first draft is the source itself; an output that repeats it takes few steps."""
    from outpace.drafters.lookup.copy import Copy

    model = tiny_seq2seq("t5")
    target = HfSeq2SeqTarget(model)
    (source,) = target.encode(torch.tensor([[5, 6, 7, 8, 9, 5, 6]]))
    prompt = Prompt([START_ID], source)
    state = Copy(length=4).start(Prompt.of(prompt))
    assert state.prompt == source.ids == [5, 6, 7, 8, 9, 5, 6] and state.pointer == 0
    state.follow(5)
    assert state.prompt[state.pointer :][:4] == [6, 7, 8, 9]
    state = Copy().start(Prompt.of(prompt))
    state.follow(7)  # the output leaves out two words
    assert state.prompt[state.pointer :] == [8, 9, 5, 6]


def test_a_decoder_only_model_is_served_as_before() -> None:
    assert type(outpace.accelerate(tiny_model("llama"))) is outpace.Accelerated
