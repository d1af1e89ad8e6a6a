"""One face: what native, transformers and encoder-decoder models have in common, each by the same tests."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace import OutpaceError, Sampling  # noqa: E402
from outpace.cli.main import main  # noqa: E402
from outpace.drafters.lookup.ngram import NGram  # noqa: E402
from outpace.drafters.lookup.recycling import Recycling  # noqa: E402
from outpace.drafters.mix import Mix  # noqa: E402
from outpace.drafters.model.speed import Speed  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.table import TableTarget  # noqa: E402
from outpace.trees.chain import Chain  # noqa: E402
from tests.fake_models import write_gguf, write_tokenizer  # noqa: E402
from tests.fakes import Letters  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.hf_seq2seq_families import START_ID, tiny_seq2seq  # noqa: E402
from tests.looped_table import LoopedTable  # noqa: E402
from tests.plugins import install  # noqa: E402

PROMPTS = ["the rain in", "a b a b a b", "the"]
SAMPLED = Sampling(temperature=0.8, top_k=40, seed=7)


class Case(NamedTuple):
    """A face, the options that every call of it gets here, and what makes another one."""

    model: Any
    options: dict[str, Any]
    make: Callable[[], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("face")
    write_gguf(folder / "tiny.gguf", "llama")
    write_tokenizer(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module", params=["native", "transformers", "seq2seq"])
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    if request.param == "native":
        make: Callable[[], Any] = lambda: outpace.load(folder / "tiny.gguf", threads=1)  # noqa: E731
    else:
        model = tiny_model("llama") if request.param == "transformers" else tiny_seq2seq("t5")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        make = lambda: outpace.load(model, tokenizer)  # noqa: E731
    return Case(make(), {} if request.param == "seq2seq" else {"raw": True}, make)


@pytest.mark.parametrize("sampling", [None, SAMPLED])
def test_many_prompts_give_what_each_gives_alone(case: Case, sampling: Sampling | None) -> None:
    options = {**case.options, "max_tokens": 12, "sampling": sampling}
    alone = [case.model.generate(prompt, **options) for prompt in PROMPTS]
    together = case.model.generate(PROMPTS, **options)
    assert isinstance(together, list) and len(together) == len(PROMPTS)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.text for one in together] == [one.text for one in alone]
    assert len({tuple(one.token_ids) for one in alone}) > 1
    assert [one.token_ids for one in case.model.generate(PROMPTS[:1], **options)] == [alone[0].token_ids]


def test_a_sampling_is_its_single_options(case: Case) -> None:
    single: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "seed": 7}
    if not isinstance(case.model, outpace.Model):
        single |= {"do_sample": True, "top_p": 1.0}
    options = {**case.options, "max_tokens": 16, "draft": None}
    whole = case.model.generate(PROMPTS[0], sampling=SAMPLED, **options).token_ids
    assert whole == case.model.generate(PROMPTS[0], **single, **options).token_ids
    assert whole != case.model.generate(PROMPTS[0], **options).token_ids
    for name, value in {"temperature": 0.8, "seed": 3, "top_p": 0.5}.items():
        with pytest.raises(OutpaceError, match=f"sampling and {name} are given, accepted are") as error:
            case.model.generate(PROMPTS[0], sampling=SAMPLED, **{name: value}, **options)
        assert str(error.value).isprintable()
    with pytest.raises(OutpaceError, match=r"sampling is 0\.8, accepted are a Sampling and None"):
        case.model.generate(PROMPTS[0], sampling=0.8, **options)


def test_events_are_the_text_and_what_was_drafted(case: Case) -> None:
    options = {**case.options, "max_tokens": 40, "draft": NGram(min_n=1, length=4)}
    expected = case.model.stream(PROMPTS[1], **options)
    text = "".join(expected)
    stream = case.model.stream(PROMPTS[1], **options)
    events = list(stream.events())
    result, stats = stream.result, stream.result.stats
    assert "".join(event.text for event in events) == text == expected.result.text
    assert [token for event in events for token in event.tokens] == result.token_ids
    assert sum(event.num_drafted for event in events) == stats.num_drafted > 0
    assert sum(event.num_accepted for event in events) == stats.num_accepted > 0
    for event in events:
        kept = [event.tree.token_list[node] for node in event.path]
        assert event.tokens[: len(kept)] == kept[: len(event.tokens)]
    assert list(stream.events()) == [] and stream.result is result


def test_pieces_and_events_come_from_the_same_steps(case: Case) -> None:
    options = {**case.options, "max_tokens": 20}
    whole = case.model.generate(PROMPTS[0], **options)
    stream = case.model.stream(PROMPTS[0], **options)
    first = next(stream.events())
    assert first.tokens == whole.token_ids[: len(first.tokens)]
    rest = "".join(stream)
    assert (first.text + rest).strip() == stream.result.text.strip()


@pytest.mark.parametrize("draft", ["none", "ngram:min_n=1", NGram(min_n=1), Recycling, None])
def test_parts_are_named_or_handed_in(case: Case, draft: Any) -> None:
    options = {**case.options, "max_tokens": 25}
    draft = Recycling(case.model.target) if draft is Recycling else draft
    plain = case.model.generate(PROMPTS[1], draft=None, **options).token_ids
    for rule in ("match", Match()):
        assert case.model.generate(PROMPTS[1], draft=draft, rule=rule, **options).token_ids == plain
    with pytest.raises(OutpaceError, match="draft is 3, accepted are texts, Drafters and None"):
        case.model.generate(PROMPTS[1], draft=3, **options)
    with pytest.raises(OutpaceError, match="rule is 3, accepted are texts and Rules"):
        case.model.generate(PROMPTS[1], rule=3, **options)


def test_a_mix_of_objects_and_a_tree_object(case: Case, folder: Path) -> None:
    options = {**case.options, "max_tokens": 25}
    plain = case.model.generate(PROMPTS, draft=None, **options)
    for costs in ((), (case.model.costs(),)):
        mixed = Mix([NGram(min_n=1), Recycling(case.model.target)], *costs)
        found = case.model.generate(PROMPTS, draft=mixed, **options)
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
        # One row alone: how deep several draft is a matter of the clock.
        assert case.model.generate(PROMPTS[1], draft=mixed, **options).stats.num_drafted > 0
    if isinstance(case.model, outpace.Model):
        shaped = case.model.generate(
            PROMPTS[0], draft=f"small_model:model={folder / 'tiny.gguf'}", tree=Chain(length=3), **options
        )
        assert shaped.token_ids == plain[0].token_ids and shaped.stats.num_accepted > 0
    with pytest.raises(OutpaceError, match="give the Drafter its own tree"):
        case.model.generate(PROMPTS[0], draft=mixed, tree=Chain(), **options)


def test_token_ids_are_prompts(case: Case) -> None:
    if isinstance(case.model, outpace.AcceleratedSeq2Seq):
        (source,) = case.model.target.encode(torch.tensor([[5, 6, 7]]))
        begin = [START_ID, 3]
        expected = case.model.generate(torch.tensor([[5, 6, 7]]), decoder_input_ids=torch.tensor([begin]))
        ids = case.model.generate(outpace.Prompt(begin, source), max_length=expected.shape[1]).token_ids
        assert [*begin, *ids] == expected[0].tolist()
        return
    ids = case.model.prompt_ids(PROMPTS[0], raw=True)
    expected = case.model.generate(PROMPTS[0], raw=True, max_tokens=9).token_ids
    assert case.model.generate(outpace.Prompt(ids), max_tokens=9).token_ids == expected
    found = case.model.generate([outpace.Prompt(ids), outpace.Prompt(ids[:1])], max_tokens=9)
    assert found[0].token_ids == expected and len(found) == 2
    with pytest.raises(OutpaceError, match="takes no system, accepted are the ids alone"):
        case.model.generate(outpace.Prompt(ids), system="x")


@pytest.mark.parametrize("ids", [["a"], [1, "b"], [1.5], "abc", [[1, 2]], [None]])
def test_what_is_no_token_id_is_one_line(case: Case, ids: Any) -> None:
    if isinstance(case.model, outpace.AcceleratedSeq2Seq):
        ids = outpace.Prompt(ids, case.model.target.encode(torch.tensor([[5, 6, 7]]))[0])
    for use in (case.model.generate, case.model.stream):
        with pytest.raises(OutpaceError, match="accepted are token ids from 0 to ") as error:
            use(outpace.Prompt.of(ids))
        assert str(error.value).isprintable()


def test_no_prompts_give_no_texts_and_others_are_named(case: Case) -> None:
    assert case.model.generate([]) == [] == case.model.generate((), max_tokens=3)
    ours = isinstance(case.model, outpace.Model)
    accepted = r"outpace\.Prompt\(ids\)" if ours else "accepted (is a|are) tensor.*, "
    options: list[dict[str, Any]] = [{}, {"raw": True}] if ours else [{}]
    wrong: list[Any] = [[1, 2], 3] if ours else [[1, 2], [[1, 2]], [torch.tensor([1, 2])], 3]
    for prompts in wrong:
        for given in options:
            with pytest.raises(OutpaceError, match=accepted) as error:
                case.model.generate(prompts, **given)
            assert str(error.value).isprintable()


def test_tensors_beside_a_text_are_refused(case: Case) -> None:
    if isinstance(case.model, outpace.Model):
        with pytest.raises(TypeError, match="attention_mask"):
            cast(Any, case.model).generate("a", attention_mask=torch.ones(1, 3))
        return
    names = ["attention_mask"]
    if isinstance(case.model, outpace.AcceleratedSeq2Seq):
        names += ["input_features", "decoder_input_ids"]
    for name in names:
        for prompt in ("a", ["a", "b"], outpace.Prompt([3])):
            with pytest.raises(OutpaceError, match=f"{name} goes with a tensor of input_ids"):
                case.model.generate(prompt, **{name: torch.ones(1, 3)})


def test_a_drafter_without_traits_is_one_line(case: Case) -> None:
    class Bare:
        """All verbs, and no traits."""

        start = propose = observe = stop = lambda self, *_: None

    with pytest.raises(OutpaceError, match="traits") as error:
        case.model.generate(PROMPTS[0], draft=Bare(), **case.options)
    assert str(error.value).isprintable()


def test_use_after_the_end_is_one_line(case: Case) -> None:
    model = case.make()
    assert type(model).__name__ in repr(model) and model.name in repr(model) and "\n" not in repr(model)
    left = model.stream(PROMPTS[0], max_tokens=30, **case.options)
    next(left.events())
    with model as same:
        expected = same.generate(PROMPTS[1], max_tokens=8, **case.options).token_ids
        ended = same.stream(PROMPTS[1], max_tokens=8, **case.options)
        list(ended)
    model.close()  # a second time
    assert "closed" in repr(model)
    for use in (
        lambda: model.generate(PROMPTS[0], **case.options),
        lambda: model.generate(PROMPTS, draft=NGram(), **case.options),
        lambda: model.stream(PROMPTS[0], **case.options),
        lambda: next(left),
        lambda: model.costs(),
        lambda: model.new_drafter("ngram"),
        lambda: model.prompt_ids(PROMPTS[0]),
        lambda: model.generate([]),
        lambda: model.generate(PROMPTS[0], nonsense=3) if hasattr(model, "refresh") else model.config,
        lambda: model.refresh() if hasattr(model, "refresh") else model.weights,
        lambda: model.generations(torch.tensor([[5, 6]])) if hasattr(model, "refresh") else model.drafter(),
    ):
        with pytest.raises(OutpaceError, match="closed, accepted is") as error:
            use()
        assert str(error.value).isprintable()
    assert ended.result.token_ids == expected
    left.close()
    assert case.make().generate(PROMPTS[1], max_tokens=8, **case.options).token_ids == expected


def test_closing_gives_native_memory_back(folder: Path) -> None:
    model = outpace.load(folder / "tiny.gguf", threads=1)
    stream = model.stream(PROMPTS[0], raw=True, max_tokens=30)
    next(stream)
    row = model.target.open()
    mapping = weakref.ref(model.weights.buffer)
    model.close()
    model.target.free([row])
    stream.close()
    gc.collect()
    assert mapping() is None, "nobody holds the file's memory"
    for use in (lambda: model.target.open(), lambda: model.target.length(row)):
        with pytest.raises(OutpaceError, match="the model is closed"):
            use()


def test_options_are_spelled_once_and_shown() -> None:
    for call in (outpace.Model.generate, outpace.Model.stream):
        parameters = inspect.signature(call).parameters
        assert parameters["max_tokens"].default == 128 and parameters["draft"].default == "ngram"
        assert parameters["sampling"].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_token'"):
        outpace.Model.generate(None, "a", max_token=3)  # type: ignore[call-overload]
    assert "threads" in inspect.signature(outpace.load).parameters


def test_load_takes_a_target(folder: Path) -> None:
    target = TableTarget.random(vocab_size=8, seed=3, spread=3.0)
    model = outpace.load(target)
    prompt = outpace.Prompt([1, 2, 3])
    plain = model.generate(prompt, draft=None, max_tokens=20)
    assert model.generate(prompt, max_tokens=20).token_ids == plain.token_ids and plain.text == ""
    for tokenless, accepted in ((model, "attribute"), (outpace.load(tiny_model("llama")), "accelerate")):
        with pytest.raises(OutpaceError, match=rf"text needs a tokenizer, .*{accepted}.*outpace\.Prompt"):
            tokenless.generate("abc")
        for stop in ("a", ["a", "b"]):
            with pytest.raises(OutpaceError, match="stop needs the tokenizer, accepted are") as error:
                tokenless.generate(prompt, stop=stop)
            assert str(error.value).isprintable()
        assert tokenless.generate(prompt, stop=None, max_tokens=3).token_ids
    with pytest.raises(OutpaceError, match="is read from no file"):
        _ = model.config
    for options, accepted in (({"threads": 2}, "threads"), ({"quantize": "q8"}, "quantize")):
        with pytest.raises(OutpaceError, match=f"a target takes no {accepted}, accepted is its own options"):
            outpace.load(target, **options)
    with pytest.raises(OutpaceError, match="a transformers model takes no threads"):
        outpace.load(tiny_model("llama"), threads=2)
    with pytest.raises(OutpaceError, match="a tokenizer goes with a transformers model"):
        outpace.load(folder / "tiny.gguf", Letters("ab"))  # type: ignore[call-overload]
    for wrong in (3, None, TableTarget, ["a"]):
        with pytest.raises(OutpaceError, match=r"^source is .*, accepted are "):
            outpace.load(wrong)  # type: ignore[call-overload]
    assert outpace.load(tiny_model("llama"), context_length=16).target.context_length == 16


@pytest.mark.parametrize("has", ["tokenizer", "chat", "both", "neither"])
def test_a_target_has_a_tokenizer_a_template_or_both(has: str) -> None:
    class Chat:
        """A template that doubles what it is given."""

        def render(self, messages: Any) -> str:
            return str(messages[0]["content"]) * 2

    target: Any = TableTarget.random(vocab_size=8, seed=3, spread=3.0)
    if has in ("tokenizer", "both"):
        target.tokenizer = Letters("abcdefgh")
    if has in ("chat", "both"):
        target.chat = Chat()
    model = outpace.load(target)
    assert (model.chat is not None) == (has in ("chat", "both"))
    if has in ("tokenizer", "both"):
        assert model.prompt_ids("cab") == [2, 0, 1] * (2 if has == "both" else 1)
        assert len(model.generate("cab", max_tokens=5).text) == 5
    else:
        with pytest.raises(OutpaceError, match="text needs a tokenizer"):
            model.prompt_ids("cab")


PLUGIN = '''
import numpy as np
from outpace.targets.table import TableTarget
from tests.fakes import Letters


class Wheel(TableTarget):
    """After each letter comes the one that is `by` further."""

    chat = None

    def __init__(self, *, by: int = 1, size: int = 5):
        super().__init__(np.roll(np.eye(size, dtype=np.float32), by, axis=1))
        self.tokenizer = Letters("abcdefghij"[:size])


class Nothing:
    pass
'''


def test_targets_of_other_packages_reach_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutpaceError, match="unknown target 'wheel'"):
        outpace.load("wheel:by=2")
    points = {"outpace.targets": {"wheel": "my_targets:Wheel", "nothing": "my_targets:Nothing"}}
    install(tmp_path, monkeypatch, {"my_targets.py": PLUGIN}, points)
    for spec, text in (("wheel", "bcdea"), ("wheel:by=2", "cebda"), ("wheel:by=3,size=7", "dgcfb")):
        assert outpace.load(spec).generate("a", max_tokens=5).text == text
    assert "wheel:by=2" in repr(outpace.load("wheel:by=2"))
    assert main(["generate", "a", "-m", "wheel:by=2", "--max-tokens", "5"]) == 0
    assert capsys.readouterr().out.strip() == "cebda"
    assert main(["profile", "-m", "wheel"]) == 2
    assert "is read from no file" in capsys.readouterr().err
    for wrong, accepted in (
        ("wheel:bye=2", "has no option 'bye', accepted are by, size"),
        ("wheel:by=x", "accepted are whole numbers"),
        ("weel:by=2", "unknown target 'weel', accepted are nothing, wheel"),
        ("nothing", "accepted are Targets"),
    ):
        with pytest.raises(OutpaceError, match=accepted) as error:
            outpace.load(wrong)
        assert str(error.value).isprintable()
    (tmp_path / "wheel").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutpaceError, match=r"0 \.gguf files"):
        outpace.load("wheel")  # a folder goes before it


def test_a_looped_model_drafts_for_itself() -> None:
    """Without a word it is speed; whoever names a draft, a rule or a tree has what he had."""
    looped = LoopedTable.of(4, 0.5, vocab_size=9, order=2, seed=3, context_length=64)
    model = outpace.load(looped)
    assert model.own_draft == "speed" and isinstance(model.drafter(), Speed)
    assert isinstance(model.drafter(tree=None), Speed) and isinstance(model.drafter("ngram"), NGram)
    assert outpace.load(TableTarget.random()).own_draft == "ngram"
    prompt = outpace.Prompt([1, 2, 3])
    plain = model.generate(prompt, draft=None, max_tokens=30)
    drafted = model.generate(prompt, max_tokens=30)
    assert drafted.token_ids == plain.token_ids
    assert drafted.stats.num_passes > 0 == plain.stats.num_passes
    assert model.generate(prompt, rule="topk", max_tokens=30).stats.num_passes == 0
