"""Grammars: texts follow them, and are those of plain decoding with the same grammar, whatever drafts."""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("llguidance")
import outpace
from outpace import Grammar, OutpaceError
from outpace.core.edits import AnyEdit, Edit
from outpace.drafters.forced import Forced
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, result_of
from outpace.engine.request import Request
from outpace.models.grammar_edit import GrammarEdit
from outpace.models.grammar_tokens import Grammars
from outpace.rules.match import Match
from tests.fake_models import EOS_ID, VOCAB_SIZE, write_gguf, write_hf
from tests.fakes import Letters, hostile
from tests.looped_models import write_looped

PROMPT = outpace.Prompt([5, 9, 9, 17, 5, 40, 9])
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "greenish"]},
        "name": {"type": "string", "maxLength": 5},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        "done": {"type": "boolean"},
    },
    "required": ["colour", "name", "sizes", "done"],
    "additionalProperties": False,
}
REGEX = r"(ab|the |and ){2,9}-(yes|no|not sure), [a-h]{3}!"
LARK = 'start: "<" item ("," item){1,3} ">"\nitem: NAME "=" (NAME | item)\nNAME: /[a-z]{1,4}/'
GBNF = 'root ::= "the list: " line line? line?\nline ::= "- " [a-z] [a-z]? [a-z]? "\\n"'
FINITE = "colour: (red|green|greenish|)(, and the shape: (round|square))?"
GRAMMARS = {
    "schema": Grammar.json_schema(SCHEMA),
    "json": Grammar.json(),
    "regex": Grammar.regex(REGEX),
    "lark": Grammar.lark(LARK),
    "gbnf": Grammar.gbnf(GBNF),
}
DRAFTS: list[Any] = [
    "ngram:min_n=1", "suffix", "mix", "recycling", "early_exit:layers=2", Forced(NoDraft()),
    *(hostile(VOCAB_SIZE)[name] for name in ("garbage", "too deep", "outside", "wrong root", "twins")),
]  # fmt: skip
SAMPLINGS: list[dict[str, Any]] = [{}, {"temperature": 0.8, "seed": 3}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Path]:
    folder = tmp_path_factory.mktemp("grammar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        write_gguf(folder / "tiny.gguf", "llama")
        yield folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    with outpace.load(folder / "tiny.gguf", threads=1) as loaded:
        yield loaded


def follows(name: str, text: str) -> bool:
    """Whether a text is of one of GRAMMARS, as somebody else has it."""
    if name == "regex":
        return re.fullmatch(REGEX, text) is not None
    if name == "lark":
        return re.fullmatch(r"<([a-z]{1,4}=)+[a-z]{1,4}(,([a-z]{1,4}=)+[a-z]{1,4}){1,3}>", text) is not None
    if name == "gbnf":
        return re.fullmatch(r"the list: (- [a-z]{1,3}\n){1,3}", text) is not None
    found = json.loads(text)
    if name == "json":
        return isinstance(found, dict)
    return bool(
        list(found) == list(SCHEMA["properties"])
        and found["colour"] in ("red", "green", "greenish")
        and (isinstance(found["name"], str) and len(found["name"]) <= 5)
        and (len(found["sizes"]) <= 3 and all(type(n) is int and 0 <= n <= 99 for n in found["sizes"]))
        and isinstance(found["done"], bool)
    )


def edit_of(model: Any, grammar: Grammar, ends: Sequence[int] = (EOS_ID,), first: int = 2) -> GrammarEdit:
    return Grammars(model.tokenizer, VOCAB_SIZE).edit(grammar, ends=ends, first=first)


def allowed(edit: AnyEdit | None) -> list[int]:
    assert isinstance(edit, Edit) and edit.allowed is not None
    return np.flatnonzero(np.unpackbits(edit.allowed, count=VOCAB_SIZE, bitorder="little")).tolist()


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_texts_follow_and_drafts_change_nothing(model: Any, name: str, sampling: dict[str, Any]) -> None:
    wanted = {"max_tokens": 150, "grammar": GRAMMARS[name], **sampling}
    plain = model.generate(PROMPT, draft="none", **wanted)
    if plain.finish_reason == "stop":  # "json" may go on for ever
        assert follows(name, plain.text) and plain.token_ids[-1] == EOS_ID
    assert plain.finish_reason == "stop" or name == "json"
    for draft in DRAFTS:
        drafted = model.generate(PROMPT, draft=draft, **wanted)
        assert drafted.token_ids == plain.token_ids and drafted.text == plain.text, draft


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("tree", ["static:widths=[3,2,1]", "dynamic:size=12", "chain:length=4"])
def test_trees_that_branch(model: Any, folder: Path, tree: str, sampling: dict[str, Any]) -> None:
    wanted = {"max_tokens": 80, "grammar": GRAMMARS["schema"], **sampling}
    draft = f"small_model:model={folder / 'tiny.gguf'}"
    plain = model.generate(PROMPT, draft="none", **wanted)
    drafted = model.generate(PROMPT, draft=draft, tree=tree, **wanted)
    assert drafted.token_ids == plain.token_ids and follows("schema", plain.text)
    assert drafted.stats.num_accepted > 10


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_the_pipeline_of_a_looped_model(tmp_path: Path, sampling: dict[str, Any]) -> None:
    write_looped(tmp_path / "looped", "looped")
    wanted: dict[str, Any] = {"max_tokens": 80, "grammar": GRAMMARS["schema"], **sampling}
    with outpace.load(tmp_path / "looped", threads=1) as loaded:
        plain = loaded.generate(PROMPT, draft="none", **wanted)
        assert follows("schema", plain.text)
        for draft in ("speed:early=1", "speed:early=1,second=2,draft=[ngram:min_n=1]"):
            drafted = loaded.generate(PROMPT, draft=draft, **wanted)
            assert drafted.token_ids == plain.token_ids
            assert drafted.stats.num_passes < 3 * plain.stats.target_calls


def test_a_mask_that_ignores_the_path_is_noticed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model.generate(PROMPT, draft="none", max_tokens=80, grammar=GRAMMARS["schema"])
    right = GrammarEdit.__call__
    monkeypatch.setattr(GrammarEdit, "__call__", lambda edit, text, path: right(edit, text, ()))
    assert model.generate(PROMPT, draft="none", max_tokens=80, grammar=GRAMMARS["schema"]).text == plain.text
    try:
        wrong = model.generate(PROMPT, draft=hostile(VOCAB_SIZE)["everything"], max_tokens=80,
                               grammar=GRAMMARS["schema"])  # fmt: skip
    except OutpaceError as error:
        assert "has left its grammar" in str(error)
    else:
        assert wrong.token_ids != plain.token_ids


@pytest.mark.parametrize("rule", ["speculative", "block", "topk:k=300", "typical", "distance:eps=1000"])
def test_other_rules_stay_within_the_grammar(model: Any, folder: Path, rule: str) -> None:
    for draft in (f"small_model:model={folder / 'tiny.gguf'}", hostile(VOCAB_SIZE)["garbage"]):
        if rule in ("speculative", "block") and not isinstance(draft, str):
            continue
        found = model.generate(PROMPT, draft=draft, rule=rule, temperature=0.9, seed=1, max_tokens=80,
                               grammar=GRAMMARS["schema"])  # fmt: skip
        assert found.finish_reason == "stop" and follows("schema", found.text)


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"repetition_penalty": 3.0, "min_tokens": 9},
        {"logit_bias": {token: -9.0 for token in range(0, 300, 3)}},
    ],
)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_penalties_and_biases_hold_too(model: Any, options: dict[str, Any], sampling: dict[str, Any]) -> None:
    wanted = {"max_tokens": 80, "grammar": GRAMMARS["schema"], **sampling}
    plain = model.generate(PROMPT, draft="none", **wanted, **options)
    assert follows("schema", plain.text)
    assert plain.token_ids != model.generate(PROMPT, draft="none", **wanted).token_ids, "they do something"
    for draft in ("ngram:min_n=1", "mix", hostile(VOCAB_SIZE)["garbage"]):
        assert model.generate(PROMPT, draft=draft, **wanted, **options).token_ids == plain.token_ids


@pytest.mark.parametrize("draft", ["none", "ngram"])
def test_a_complete_grammar_ends_the_text_before_the_least_length(model: Any, draft: str) -> None:
    wanted = {"draft": draft, "max_tokens": 30, "min_tokens": 25}
    ended = model.generate(PROMPT, grammar=Grammar.regex("the"), **wanted)
    assert (ended.text, ended.finish_reason) == ("the", "stop")
    open_ended = model.generate(PROMPT, grammar=Grammar.regex("the[a-z]*"), **wanted)
    assert len(open_ended.token_ids) >= 25 and re.fullmatch("the[a-z]*", open_ended.text)
    banned = {EOS_ID: float("-inf")}
    assert model.generate(PROMPT, grammar=Grammar.regex("the"), draft=draft, logit_bias=banned).text == "the"


def test_ends_are_those_of_the_request(model: Any) -> None:
    more = model.tokenizer.encode("x", add_special_tokens=False)
    for ends in ({"ignore_eos": True, "stop_token_ids": [299]}, {"stop_token_ids": [299, 296]}):
        found = model.generate(PROMPT, grammar=Grammar.regex("(the |and ){3}"), temperature=1.0, **ends)
        assert found.finish_reason == "stop" and re.fullmatch("(the |and ){3}", found.text)
    # An end token that is text of the grammar ends it as text does.
    assert model.generate(PROMPT, grammar=Grammar.regex("axb"), stop_token_ids=more).text == "a"
    with pytest.raises(OutpaceError, match="a grammar needs a token that ends the text, accepted are"):
        model.generate(PROMPT, grammar=Grammar.json(), ignore_eos=True)


def test_a_text_that_is_too_short_for_its_grammar(model: Any) -> None:
    found = model.generate(PROMPT, grammar=GRAMMARS["schema"], max_tokens=6)
    assert found.finish_reason == "length" and found.text == '{"colou'
    assert len(found.token_ids) == 6


def test_rows_side_by_side_are_those_alone(model: Any) -> None:
    prompts = [outpace.Prompt([5 + n, 9, 9, 17]) for n in range(4)]
    for draft in ("none", "ngram:min_n=1", "early_exit:layers=2"):
        wanted: dict[str, Any] = {"grammar": GRAMMARS["schema"], "max_tokens": 70, "temperature": 0.8}
        alone = [model.generate(prompt, draft="none", **wanted).token_ids for prompt in prompts]
        together = model.generate(prompts, draft=draft, **wanted)
        assert [one.token_ids for one in together] == alone and len({*map(tuple, alone)}) > 1


def test_rows_with_and_without_a_grammar_share_an_engine(model: Any) -> None:
    """As a server has it: one drafter for all, and one value for several requests."""
    grammars = model._request(PROMPT, {"grammar": GRAMMARS["regex"], "max_tokens": 60}, streams=False)[0]
    free = Request(PROMPT, max_tokens=60)
    inner = NGram(min_n=1)
    expected = [model.generate(PROMPT, draft="none", max_tokens=60, grammar=one).token_ids
                for one in (GRAMMARS["regex"], None)]  # fmt: skip
    for drafter in (Forced(inner), inner):
        found = result_of(events(model.target, drafter, Match(), [grammars, free, grammars, free]))
        assert [one.token_ids for one in found] == [*expected, *expected]


def test_texts_that_wait_for_a_row_go_on(folder: Path) -> None:
    prompts = [outpace.Prompt([5 + n, 9, 9, 17]) for n in range(3)]
    wanted: dict[str, Any] = {"grammar": GRAMMARS["lark"], "max_tokens": 60, "temperature": 0.8}
    with outpace.load(folder / "tiny.gguf", threads=1) as roomy:
        expected = [roomy.generate(prompt, draft="none", **wanted).token_ids for prompt in prompts]
    assert sum(map(len, expected)) > 40
    with outpace.load(folder / "tiny.gguf", threads=1, context_length=64, cache_tokens=64) as full:
        for draft in ("none", "ngram:min_n=1"):
            found = full.generate(prompts, draft=draft, **wanted)
            assert [one.token_ids for one in found] == expected


def test_masks_lead_to_every_text_and_to_no_other(model: Any) -> None:
    """All ways through the masks of a finite language spell the language."""
    edit, first = edit_of(model, Grammar.regex(FINITE)), [1, 2]
    texts, ways = set(), [list[int]()]
    while ways:
        way = ways.pop()
        for token in allowed(edit([*first, *way], [])):
            if token == EOS_ID:
                texts.add(model.tokenizer.decode(way))
            else:
                ways.append([*way, token])
    colours, shapes = (
        ("red", "green", "greenish", ""),
        ("", ", and the shape: round", ", and the shape: square"),
    )
    assert texts == {f"colour: {a}{b}" for a, b in itertools.product(colours, shapes)}


@pytest.mark.parametrize("name", ["schema", "regex", "lark", "gbnf"])
def test_no_way_to_a_place_changes_its_mask(model: Any, name: str) -> None:
    """Any order of paths, wrong tokens among them, against a matcher that goes there straight."""
    rng, edit, fresh = random.Random(1), edit_of(model, GRAMMARS[name]), edit_of(model, GRAMMARS[name])
    text, length = [1, 2], 0
    while True:
        paths: list[list[int]] = [[]]
        for _ in range(12):
            path = list(rng.choice(paths))
            after = edit(text, path)
            choice = allowed(after) if after is not None and rng.random() < 0.8 else range(VOCAB_SIZE)
            paths.append([*path, rng.choice(choice)])
        rng.shuffle(paths)
        for path in paths:
            found, straight = edit(text, path), fresh([*text, *path[:0]], path)
            assert (found is None) == (straight is None)
            if found is not None:
                assert allowed(found) == allowed(straight)
            chain = edit.forced(text, path)
            for n, token in enumerate(chain):
                assert allowed(edit(text, [*path, *chain[:n]])) == [token]
        here = allowed(edit(text, []))
        token = rng.choice(here)
        length += 1
        if token == EOS_ID or length > 40:
            break
        text.append(token)
    assert length > 3


def test_no_text_is_read_twice(model: Any) -> None:
    """Along a tree the matcher consumes each node once, and of a text what is new."""

    class Counting:
        def __init__(self, matcher: Any) -> None:
            self.matcher = matcher

        def try_consume_tokens(self, tokens: list[int]) -> Any:
            consumed.append(len(tokens))
            return self.matcher.try_consume_tokens(tokens)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.matcher, name)

    edit, consumed = edit_of(model, Grammar.regex("[a-z ]*")), list[int]()
    letters = model.tokenizer.encode("abcd", add_special_tokens=False)
    text = [1, 2, *letters * 50]
    edit(text, [])
    edit._matcher = Counting(edit._matcher)
    for _ in range(5):
        for node in ([], letters[:1], letters[:2], letters, [*letters[:3], letters[0]], letters[1:]):
            edit(text, node)
        assert sum(consumed) <= 2 + 3 * len(letters)
        consumed.clear()
        text += letters[:2]


def test_forced_tokens_save_calls(model: Any) -> None:
    wanted: dict[str, Any] = {"grammar": GRAMMARS["schema"], "max_tokens": 80}
    plain = model.generate(PROMPT, draft="none", **wanted)
    for draft in (Forced(NoDraft()), "ngram", "mix"):
        drafted = model.generate(PROMPT, draft=draft, **wanted)
        assert drafted.token_ids == plain.token_ids
        assert drafted.stats.target_calls < 0.6 * plain.stats.target_calls
    # Tokens that are certain; an end, one or several, is what their call gives.
    for ends in ([], [0], [290, 297]):
        wanted = {"grammar": Grammar.regex("the certain end"), "stop_token_ids": ends}
        plain = model.generate(PROMPT, draft="none", **wanted)
        sure = model.generate(PROMPT, draft=Forced(NoDraft()), **wanted)
        assert sure.text == "the certain end" and sure.token_ids == plain.token_ids
        assert sure.stats.target_calls == 0
        assert sure.stats.num_drafted == sure.stats.num_accepted == len(sure.token_ids) - 1


def test_folders_and_vocabularies_of_other_kinds(folder: Path, tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", "qwen2", vocab_size=320)  # more rows than tokens
    with outpace.load(tmp_path / "hf", threads=1) as loaded:
        assert loaded.target.vocab_size == 320
        found = loaded.generate("hi", grammar=GRAMMARS["schema"], max_tokens=80, temperature=0.9)
        assert follows("schema", found.text)
    letters = Letters("abcdefghijklmnop")
    edit = Grammars(letters, 20).edit(Grammar.regex("a(b|c)d+"), ends=[19], first=0)
    steps = [allowed(edit(list(text), [])) for text in ([], [0], [0, 2], [0, 2, 3])]
    assert steps == [[0], [1, 2], [3], [3, 19]]


def test_sentence_piece_puts_no_space_into_a_text() -> None:
    from outpace.files.tokenizer import Tokenizer
    from tests.files.vocabularies import sentence_piece_metadata, trained_pieces

    for add_space in (True, False):
        metadata = sentence_piece_metadata(trained_pieces(), add_space_prefix=add_space)
        tokenizer = Tokenizer.from_gguf(metadata)
        edit = Grammars(tokenizer, tokenizer.vocab_size).edit(Grammar.regex("The hat, é"), ends=[2], first=0)
        chain = edit.forced([], [])
        spelt = b"".join(tokenizer.text_bytes[token] for token in chain)
        assert spelt.decode() == "The hat, é"


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (
            lambda: Grammar.json_schema({"type": 3}),
            "the JSON schema .* cannot be read: type must be a string",
        ),
        (lambda: Grammar.json_schema("{"), "the JSON schema '{' cannot be read"),
        (lambda: Grammar.json_schema({"$ref": "#/no"}), "cannot be read: Pointer '/no' does not exist"),
        (lambda: Grammar.regex("(a"), r"the regular expression '\(a' cannot be read: .*unclosed group"),
        (lambda: Grammar.lark("start: x"), "the Lark grammar 'start: x' cannot be read: .*unknown name"),
        (lambda: Grammar.gbnf("root ::= ("), r"the GBNF grammar .* cannot be read: Expected '\)'"),
        (lambda: Grammar.gbnf('root ::= "\\'), "the GBNF grammar .* cannot be read"),
        (lambda: Grammar.gbnf("a ::= b"), "Rule 'b' not found"),
        (lambda: Grammar.json_schema({"a": object()}), "the JSON schema holds what is not JSON"),
        (lambda: Grammar.json_schema({"a": float("nan")}), "the JSON schema holds what is not JSON"),
        (lambda: Grammar.json_schema([1]), r"schema is \[1\], accepted are mappings and texts"),  # type: ignore[arg-type]
        (lambda: Grammar.regex(3), "regex is 3, accepted are texts"),  # type: ignore[arg-type]
        (lambda: Grammar.json(whitespace="much"), "whitespace is 'much', accepted are True and False"),  # type: ignore[arg-type]
        (lambda: "json", r"grammar is 'json', accepted are None and outpace\.Grammar\.json\(\), json_schema"),
    ],
)
def test_what_is_no_grammar_gets_one_line(model: Any, grammar: Any, message: str) -> None:
    with pytest.raises(OutpaceError, match=message) as error:
        model.generate(PROMPT, grammar=grammar())
    assert str(error.value).isprintable()


def test_a_missing_package_is_one_line(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(OutpaceError, match=r"pip install 'outpace\[grammar\]'"):
        Grammar.regex("a").compiled()
    monkeypatch.setattr(model, "_grammars", None)
    with pytest.raises(OutpaceError, match=r"a grammar needs the package llguidance"):
        model.generate(PROMPT, grammar=Grammar.json())


def test_a_target_without_a_tokenizer_says_so() -> None:
    from outpace.targets.table import TableTarget

    loaded = outpace.load(TableTarget(np.zeros((4, 4), np.float32)))
    with pytest.raises(OutpaceError, match="text needs a tokenizer"):
        loaded.generate(outpace.Prompt([1]), grammar=Grammar.json(), stop_token_ids=[0])


def test_white_space_is_left_to_the_model_on_request(model: Any) -> None:
    loose = edit_of(model, Grammar.json_schema(SCHEMA, whitespace=True))
    brace = model.tokenizer.encode("{", add_special_tokens=False)
    newline = model.tokenizer.encode("\n", add_special_tokens=False)
    assert newline[0] in allowed(loose([1, 2, *brace], []))
    assert len(edit_of(model, GRAMMARS["schema"]).forced([1, 2], [])) > len(loose.forced([1, 2], []))
