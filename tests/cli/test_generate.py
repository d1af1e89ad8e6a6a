"""`outpace generate`: what is printed where, and with which exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from tests.cli.conftest import FakeModel, Outcome

Run = Callable[..., Outcome]
FIELDS = {  # what `--json` promises
    "model", "draft", "tree", "rule", "sampling", "prompt_tokens", "completion_tokens", "wall_s",
    "tokens_per_s", "target_calls", "num_passes", "mean_accepted_length", "draft_s", "score_s", "exactness",
    "identical_to_plain", "text", "token_ids",
}  # fmt: skip


def test_text_alone_on_standard_output(run: Run, model: FakeModel) -> None:
    outcome = run("generate", "Explain tides.")
    assert outcome == (0, "The moon pulls.\n", "")
    prompt, request = model.calls[0]
    assert prompt == "Explain tides."
    assert request == {
        "draft": "ngram", "tree": None, "rule": "match", "max_tokens": 128, "temperature": 0.0,
        "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0, "system": None, "raw": False, "stop": (),
    }  # fmt: skip
    assert model.loaded_with["source"] == "smollm2-135m-instruct"


def test_every_option_reaches_the_model(run: Run, model: FakeModel) -> None:
    options = (
        "-m tiny.gguf --draft shaped:model=x --tree chain:length=2 --rule fair --max-tokens 9 "
        "--temperature 0.8 --top-k 40 --top-p 0.95 --min-p 0.05 --seed 7 --system Brief. --raw --stop END "
        "--stop STOP --threads 3"
    )
    assert run("generate", "x", *options.split()).status == 0
    assert model.calls[0][1] == {
        "draft": "shaped:model=x", "tree": "chain:length=2", "rule": "fair", "max_tokens": 9,
        "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 7,
        "system": "Brief.", "raw": True, "stop": ("END", "STOP"),
    }  # fmt: skip
    assert model.loaded_with["source"] == "tiny.gguf"
    assert model.loaded_with["threads"] == 3


def test_what_changes_the_choice_of_tokens_reaches_the_model(run: Run, model: FakeModel) -> None:
    args = ["--logit-bias", "7=-inf", "--logit-bias", "9=1.5", "--presence-penalty", "0.5", "--ignore-eos"]
    args += ["--frequency-penalty", "0.25", "--repetition-penalty", "1.1", "--min-tokens", "3"]
    assert run("generate", "Hi", *args, "--stop-token", "4", "--stop-token", "5").status == 0
    asked = model.calls[-1][1]
    assert asked["logit_bias"] == {7: float("-inf"), 9: 1.5} and asked["stop_token_ids"] == [4, 5]
    assert (asked["presence_penalty"], asked["frequency_penalty"]) == (0.5, 0.25)
    assert (asked["repetition_penalty"], asked["min_tokens"], asked["ignore_eos"]) == (1.1, 3, True)
    for wrong in ("7", "x=1", "7=much", "=1"):
        outcome = run("generate", "Hi", "--logit-bias", wrong)
        assert outcome.status == 2 and f"--logit-bias is {wrong!r}, accepted is ID=X" in outcome.err


def test_template_options_reach_the_model(run: Run, model: FakeModel, tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text('[{"name": "tide", "description": "H\\u00f6he"}]')
    options = ["--tools", str(tools), "--parse-special", "--template-option", "enable_thinking=false"]
    options += ["--template-option", "reasoning_effort=low", "--template-option", 'a={"b": [1, null]}']
    options += ["--template-option", "c==", "--template-option", "d="]
    expected = {
        "tools": [{"name": "tide", "description": "Höhe"}],
        "chat_template_kwargs": {
            "enable_thinking": False, "reasoning_effort": "low", "a": {"b": [1, None]}, "c": "=", "d": "",
        },
        "parse_special": True,
    }  # fmt: skip
    assert run("generate", "x", *options).status == 0
    assert model.calls[-1][1].items() >= expected.items()
    assert run("generate", "x", "--compare", *options).status == 0
    assert all(request.items() >= expected.items() for _, request in model.calls)


@pytest.mark.parametrize("command", [("generate", "x"), ("chat",)])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--template-option", "thinking"), "--template-option is 'thinking', accepted are NAME=VALUE"),
        (("--template-option", "=x"), "accepted are NAME=VALUE"),
        (("--template-option", "a-b=x"), "accepted are NAME=VALUE"),
        (("--template-option", "a=1", "--template-option", "a=2"), "accepted are NAME=VALUE once"),
        (("--tools", "nowhere.json"), "cannot read nowhere.json: No such file"),
        (("--tools", "/dev/null"), "/dev/null is not a regular file"),
        (("--tools", __file__), "is not valid JSON"),
        (("--tools", "object.json"), "object.json does not hold a JSON list of objects"),
        (("--tools", "texts.json"), "texts.json does not hold a JSON list of objects"),
    ],
)
def test_wrong_template_options(
    run: Run,
    model: FakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    options: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("object.json").write_text('{"name": "tide"}')
    Path("texts.json").write_text('["tide"]')
    outcome = run(*command, *options)
    assert outcome.status == 2 and named in outcome.err and outcome.err.count("\n") == 1
    assert not model.loaded_with


@pytest.mark.parametrize("args", [("-",), ()])
@pytest.mark.parametrize(
    ("piped", "prompt"),
    [
        (b"from a\npipe", "from a\npipe"),
        (b"x\n", "x"),
        (b"x\r\n", "x"),
        (b"x\n\n", "x\n"),
        (b"a\r\nb \r", "a\r\nb \r"),
        (b"\n", ""),
        ("é∑".encode(), "é∑"),
    ],
)
def test_prompt_from_standard_input(
    run: Run,
    model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    piped: bytes,
    prompt: str,
) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(piped), encoding="ascii"))
    assert run("generate", *args).status == 0
    assert model.calls[0][0] == prompt


@pytest.mark.parametrize(
    ("piped", "reason"), [(b"", "standard input is empty"), (b"caf\xe9", "standard input is not UTF-8 text")]
)
def test_what_is_no_prompt_gets_one_line(
    run: Run, model: FakeModel, monkeypatch: pytest.MonkeyPatch, piped: bytes, reason: str
) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(piped), encoding="latin-1"))
    outcome = run("generate", "-")
    assert outcome.status == 2 and outcome.out == "" and not model.loaded_with
    assert outcome.err.startswith("error: ") and reason in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (("caf\udce9",), "the prompt"),
        (("x", "--system", "caf\udce9"), "--system"),
        (("x", "--stop", "a", "--stop", "caf\udce9"), "--stop"),
    ],
)
def test_words_that_are_no_text(run: Run, model: FakeModel, args: tuple[str, ...], name: str) -> None:
    """Bytes of the command line that are not UTF-8 come as surrogates."""
    assert run("generate", *args) == (2, "", f"error: {name} is not UTF-8 text\n")


def test_json_is_one_record_and_nothing_else(run: Run, model: FakeModel) -> None:
    outcome = run("generate", "x", "--json", "--temperature", "0.5", "--seed", "3")
    assert outcome.status == 0 and outcome.err == ""
    assert outcome.out.count("\n") == 1
    record = json.loads(outcome.out)
    assert record.keys() >= FIELDS
    assert record["text"] == "The moon pulls." and record["token_ids"] == [4, 5, 6]
    assert record["sampling"] == {"temperature": 0.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 3}
    assert record["prompt_tokens"] == 4 and record["completion_tokens"] == 3 and record["target_calls"] == 1
    assert record["mean_accepted_length"] == 2.0
    assert record["tokens_per_s"] == pytest.approx(20.0)
    assert record["identical_to_plain"] is None


def test_the_record_has_logprobs_if_asked(run: Run, model: FakeModel) -> None:
    record = json.loads(run("generate", "x", "--json", "--logprobs", "1").out)
    assert model.calls[-1][1]["logprobs"] == 1
    assert [one["token"] for one in record["logprobs"]] == record["token_ids"]
    assert record["logprobs"][0] == {"token": 4, "logprob": -0.5, "top": [[4, -0.5]]}
    assert json.loads(run("generate", "x", "--json", "--logprobs", "0").out)["logprobs"][0]["top"] == []
    assert "logprobs" not in json.loads(run("generate", "x", "--json").out)


def test_compare_prints_both_speeds(run: Run, model: FakeModel) -> None:
    outcome = run("generate", "x", "--compare")
    assert outcome.status == 0
    text, _, report = outcome.out.partition("\n\n")
    assert text == "The moon pulls."
    plain, drafted, identical = report.splitlines()
    assert plain.startswith("plain") and "10.0 tokens/s" in plain
    assert drafted.startswith("ngram") and "20.0 tokens/s" in drafted and "(2.00 times)" in drafted
    assert identical == "identical: yes"
    assert [request["draft"] for _, request in model.calls] == ["ngram", "none"]


def test_a_broken_promise_is_a_failure(run: Run, model: FakeModel) -> None:
    model.wrong = True
    outcome = run("generate", "x", "--compare")
    assert outcome.status == 1
    assert outcome.out.endswith("identical: no\n")
    outcome = run("generate", "x", "--compare", "--json")
    assert outcome.status == 1
    assert json.loads(outcome.out)["identical_to_plain"] is False


def test_a_weaker_promise_is_printed_and_cannot_be_broken(run: Run, model: FakeModel) -> None:
    model.wrong = True
    for rule, promise in (("fair", "distribution"), ("lucky", "lossy")):
        outcome = run("generate", "x", "--compare", "--draft", f"ngram:length=5 rule={rule}")
        assert outcome.status == 0
        assert f"\nngram:length=5 rule={rule}  3 tokens" in outcome.out
        assert outcome.out.endswith(f"identical: no; what is promised: {promise}\n")
        assert model.calls[-1][1]["draft"] == "none" and "rule" not in model.calls[-1][1]
        record = json.loads(run("generate", "x", "--json", "--rule", rule).out)
        assert (record["rule"], record["exactness"]) == (rule, promise)


def test_interrupted_in_mid_stream(run: Run, model: FakeModel) -> None:
    model.pieces = ["Half an ans", KeyboardInterrupt()]
    outcome = run("generate", "x")
    assert outcome == (130, "Half an ans\n", "interrupted\n")


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("generate", "x", "--draft", "magic"), ["magic", "ngram", "none"]),
        (("generate", "x", "--draft", "ngram:colour=3"), ["colour", "max_n", "length"]),
        (("generate", "x", "--draft", "ngram:length=0"), ["length=0", "to 65536"]),
        (("generate", "x", "--draft", "ngram", "--tree", "chain"), ["'ngram' takes no tree", "shaped"]),
        (("generate", "x", "--draft", "shaped:model=x", "--tree", "oak"), ["tree 'oak'", "chain"]),
        (
            ("generate", "x", "--draft", "shaped:model=x", "--tree", "chain:length=0"),
            ["length=0", "from 1 to 65536"],
        ),
        (("generate", "x", "--draft", "shaped"), ["'shaped' needs model=..."]),
        (("generate", "x", "--draft", "shaped:model=[x"), ["bracket"]),
        (("generate", "x", "--draft", "ngram rule=match rule=fair"), ["its rule twice"]),
        (("generate", "x", "--rule", "coin"), ["rule 'coin'", "match"]),
        (("generate", "x", "--rule", "fair:strict=often"), ["strict='often'", "true, false"]),
        (("chat", "--rule", "coin"), ["rule 'coin'", "match"]),
        (("bench", "--draft", "ngram tree=chain"), ["'ngram' takes no tree"]),
        (("bench", "--draft", "ngram", "--draft", "none rule=coin"), ["rule 'coin'"]),
        (("methods", "paint"), ["'paint'", "ngram", "chain", "match"]),
        (("generate", "x", "--temperature", "-1"), ["temperature", "-1"]),
        (("generate", "x", "--top-p", "1.5"), ["top_p", "1.5"]),
        (("generate", "x", "--temperature", "warm"), ["--temperature", "number"]),
        (("generate", "x", "--min-p", "2"), ["min_p", "2.0"]),
        (("generate", "x", "--top-k", "-2"), ["top_k", "-2"]),
        (("generate", "x", "--seed", "-1"), ["seed", "-1"]),
        (("generate", "x", "--max-tokens", "few"), ["--max-tokens", "valid integer"]),
        (("generate", "x", "--presence-penalty", "much"), ["--presence-penalty", "number"]),
        (("generate", "x", "--stop-token", "x"), ["--stop-token", "valid integer"]),
        (("generate", "x", "--min-tokens", "x"), ["--min-tokens", "valid integer"]),
        (("generate", "x", "--logprobs", "3"), ["--logprobs", "--json"]),
        (("generate", "x", "--json", "--logprobs", "21"), ["--logprobs is 21", "0 to 20"]),
        (("generate", "x", "--json", "--logprobs", "-1"), ["--logprobs is -1", "0 to 20"]),
        (("generate", "x", "--json", "--logprobs", "x"), ["--logprobs", "valid integer"]),
        (("generate", "x", "--colour", "red"), ["--colour"]),
        (("paint",), ["paint"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Run, model: FakeModel, args: tuple[str, ...], named: list[str]
) -> None:
    outcome = run(*args)
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    for word in named:
        assert word in outcome.err
    assert not model.loaded_with, "a slip must not cost the loading of a model"


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (MemoryError(), "there is not enough memory"),
        (MemoryError("(std::bad_alloc)"), "there is not enough memory (std::bad_alloc)"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 768 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "there is not enough memory (you tried to allocate 768 bytes)",
        ),
        (PermissionError(13, "Permission denied", "/a\x1b\nb"), r"/a\x1b b: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    run: Run, model: FakeModel, raised: Exception, line: str
) -> None:
    model.pieces = [raised]
    assert run("generate", "x") == (2, "", f"error: {line}\n")


def test_a_bug_is_not_hidden(run: Run, model: FakeModel) -> None:
    model.pieces = [KeyError("a bug")]
    with pytest.raises(KeyError, match="a bug"):
        run("generate", "x")
