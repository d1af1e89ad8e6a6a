"""`outpace train blockwise` on tiny models, from data to drafts; what is wrong is named before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import outpace  # noqa: E402
from outpace.heads.file import read_heads  # noqa: E402
from outpace.targets.hf_taps import model_fingerprint  # noqa: E402
from outpace.train.data import Pair  # noqa: E402
from outpace.train.examples import token_pairs  # noqa: E402
from outpace.train.head_losses import BlockwiseLoss  # noqa: E402
from outpace.train.jobs import _target_ids  # noqa: E402
from tests.cli.conftest import Outcome  # noqa: E402
from tests.fake_models import make_tokenizer, write_gguf, write_hf  # noqa: E402
from tests.hf_seq2seq_families import tiny_seq2seq  # noqa: E402

Run = Callable[..., Outcome]
PAIRS = [
    {"prompt": f"what is in the {place}", "answer": f"{thing} and the rest of it"}
    for place, thing in zip(
        ["box", "sea", "air", "tin", "hat", "bed"],
        ["ants", "salt", "rain", "tea", "hair", "sand"],
        strict=True,
    )
]
SOURCES = [{"source": pair["prompt"], "target": pair["answer"]} for pair in PAIRS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("train")
    write_gguf(made / "tiny.gguf", "llama", num_hidden_layers=1)
    write_gguf(made / "other.gguf", "llama", num_hidden_layers=1, seed=1)
    lines(made / "data.jsonl", PAIRS)
    lines(made / "sources.jsonl", SOURCES)
    return made


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))


@pytest.fixture(scope="module")
def marian(folder: Path) -> str:
    """A folder that transformers loads, tokenizer and all."""
    tiny_seq2seq("marian", encoder_layers=1, decoder_layers=1, max_position_embeddings=300).save_pretrained(
        folder / "marian"
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(), eos_token="<|im_end|>", pad_token="<|pad|>"
    ).save_pretrained(folder / "marian")
    return str(folder / "marian")


def lines(path: Path, items: list[Any]) -> Path:
    path.write_text("".join((i if isinstance(i, str) else json.dumps(i)) + "\n" for i in items))
    return path


def train(run: Run, folder: Path, output: Path, *args: str, data: str = "data.jsonl") -> Outcome:
    """The last of an option that is given twice counts."""
    given = ["--data", str(folder / data)] if data else []
    target = ["--target", str(folder / "tiny.gguf"), "--threads", "1"]
    return run(
        "train", "blockwise", "-o", str(output), *given, *target, "--steps", "20", "--batch", "32", *args
    )


@pytest.fixture(scope="module")
def heads(folder: Path) -> Path:
    """Heads that were trained in one go."""
    from outpace.cli.main import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        args = ["--target", str(folder / "tiny.gguf"), "--threads", "1", "--steps", "20", "--batch", "32"]
        output = folder / "heads"
        data = str(folder / "data.jsonl")
        assert main(["train", "blockwise", "-o", str(output), "--data", data, *args, "--lr", "0.01"]) == 0
    return output


@pytest.mark.parametrize("sampled", [[], ["--temperature", "0.9", "--seed", "4"]])
def test_trained_heads_draft(run: Run, folder: Path, heads: Path, sampled: list[str]) -> None:
    for options in ("", ",heads=2", ",size=9,min_p=0"):
        outcome = run(
            "generate", PAIRS[0]["prompt"], "-m", str(folder / "tiny.gguf"), "--draft",
            f"blockwise:path={heads}{options}", "--max-tokens", "24", "--compare", *sampled,
        )  # fmt: skip
        assert outcome.status == 0 and "identical: yes" in outcome.out


def test_what_a_training_leaves(run: Run, folder: Path, heads: Path) -> None:
    config = read_heads(heads).config
    model = outpace.load(folder / "tiny.gguf")
    assert config.target == model.target.fingerprint()  # type: ignore[attr-defined]
    assert (config.num_heads, config.hidden_size, config.width) == (4, 64, 64)
    written = json.loads((heads / "run.json").read_text())
    settings = written["settings"]
    assert (settings["steps"], settings["lr"], settings["seed"]) == (20, 0.01, 0)
    assert settings["data"].startswith("sha256:") and settings["data"].endswith("batches of 32 tokens")
    assert len(written["losses"]) == 20
    assert written["losses"][-1][1] < written["losses"][0][1] - 0.2, "it learns"
    assert not (heads / "checkpoint.pt").exists()


def test_all_heads_in_every_step_and_faster_products(
    run: Run, folder: Path, heads: Path, tmp_path: Path
) -> None:
    outcome = train(run, folder, tmp_path, "--heads-per-step", "3", "--precision", "bfloat16", "--lr", "0.01")
    assert outcome.status == 0
    written = json.loads((tmp_path / "run.json").read_text())
    assert (written["settings"]["heads_per_step"], written["settings"]["precision"]) == (3, "bfloat16")
    assert written["losses"][-1][1] < written["losses"][0][1] - 0.2
    same, outputs = read_heads(heads), read_heads(tmp_path)
    assert outputs.config == same.config and outputs.tensors["hidden.bias"].dtype == np.float32
    outcome = train(run, folder, tmp_path / "not", "--precision", "float8")
    assert outcome.status == 2 and "float32" in outcome.err and not (tmp_path / "not").exists()


def test_the_same_command_again_has_nothing_to_do(
    run: Run, folder: Path, heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*arguments: Any) -> None:
        raise AssertionError("a step was made")

    monkeypatch.setattr(BlockwiseLoss, "__call__", nothing)
    outcome = train(run, folder, heads, "--lr", "0.01")
    assert outcome.status == 0 and outcome.out == f"{heads}: 4 heads for {folder / 'tiny.gguf'}\n"
    for args, named in ((["--lr", "0.02"], "lr=0.01"), (["--lr", "0.01", "--seed", "5"], "seed=0")):
        outcome = train(run, folder, heads, *args)
        assert outcome.status == 2 and named in outcome.err and outcome.err.count("\n") == 1


def test_an_interrupted_training_goes_on(
    run: Run, folder: Path, heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    call = BlockwiseLoss.__call__

    def interrupted(self: Any, *arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return call(self, *arguments)

    monkeypatch.setattr(BlockwiseLoss, "__call__", interrupted)
    args = ["--lr", "0.01", "--checkpoint", "0"]
    outcome = train(run, folder, tmp_path, *args)
    assert outcome.status == 130 and "interrupted" in outcome.err
    assert not (tmp_path / "config.json").exists()
    outcome = train(run, folder, tmp_path, *args)
    assert outcome.status == 0 and outcome.out == f"{tmp_path}: 4 heads for {folder / 'tiny.gguf'}\n"
    assert len(steps) == 21
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (heads / name).read_bytes()


def test_heads_of_another_model_are_refused(run: Run, folder: Path, heads: Path) -> None:
    other = str(folder / "other.gguf")
    outcome = run("generate", "x", "-m", other, "--draft", f"blockwise:path={heads}", "--max-tokens", "4")
    assert outcome.status == 2 and outcome.out == ""
    assert "trained on another model" in outcome.err and "accepted are heads of this one" in outcome.err
    assert outcome.err.count("\n") == 1
    outcome = run(
        "generate", "x", "-m", str(folder / "tiny.gguf"), "--draft", "blockwise", "--max-tokens", "4"
    )
    assert outcome.status == 2 and "accepted is blockwise:path=FOLDER" in outcome.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--steps", "0"], "--steps, --batch and --width must be 1 or more"),
        (["--batch", "0"], "--steps, --batch and --width must be 1 or more"),
        (["--width", "0"], "--steps, --batch and --width must be 1 or more"),
        (["--width", str((1 << 20) + 1)], "--batch, --width and --heads up to 1048576"),
        (["--batch", str(10**20)], "--batch, --width and --heads up to 1048576"),
        (["--heads", str(10**20)], "--batch, --width and --heads up to 1048576"),
        (["--heads", "1"], "--heads 2 or more"),
        (["--tokens", "-1"], "--tokens 0 or more"),
        (["--heads-per-step", "5"], "--heads-per-step must be 1 to --heads"),
        (["--heads-per-step", "0"], "--heads-per-step must be 1 to --heads"),
        (["--model-rate", "0"], "--model-rate must be more than 0"),
        (["--model-rate", "nan"], "--model-rate must be more than 0"),
        (["--weights", "heavy"], "'falling', 'equal'"),
        (["--lr", "0"], "--lr more than 0"),
        (["--lr", "nan"], "--lr more than 0"),
        (["--checkpoint", "-1"], "--checkpoint 0 or more"),
        (["--seed", "-1"], "--seed must be 0 to 4294967295, --threads 1 to 1024"),
        (["--seed", str(1 << 32)], "--seed must be 0 to 4294967295"),
        (["--threads", "0"], "--threads 1 to 1024"),
        (["--regime", "melted"], "'frozen', 'finetuned'"),
        (["--first", "second"], "'identity', 'learned'"),
        (["--data-regime", "silver"], "'gold', 'distilled'"),
        (["--own-text", "9"], "accepted are --data FILE or --own-text N, one of them"),
        (["--own-text", "-9"], "accepted are --data FILE or --own-text N, one of them"),
        (["--teacher", "x"], "--data-regime distilled"),
        (["--regime", "finetuned"], "is no folder of a transformers model, which finetuning needs"),
        (["--target", "nowhere.gguf"], "nowhere.gguf"),
    ],
)
def test_bad_options_get_one_line(
    run: Run, folder: Path, tmp_path: Path, args: list[str], message: str
) -> None:
    outcome = train(run, folder, tmp_path / "new", *args)
    assert outcome.status == 2 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_own_text_goes_with_frozen_and_gold_alone(
    run: Run, folder: Path, tmp_path: Path, marian: str
) -> None:
    for args in (["--regime", "finetuned"], ["--data-regime", "distilled"]):
        outcome = train(run, folder, tmp_path / "new", "--own-text", "9", *args, data="")
        assert outcome.status == 2 and "frozen and gold alone" in outcome.err
    outcome = train(run, folder, tmp_path / "new", "--own-text", "9", "--target", marian, data="")
    assert outcome.status == 2 and "accepted are source and target" in outcome.err
    outcome = train(run, folder, tmp_path / "new", data="")
    assert outcome.status == 2 and "--data FILE or --own-text N" in outcome.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "bad.jsonl, line 2: empty; expected an object"),
        ("{", "bad.jsonl, line 2: not JSON"),
        ({"prompt": "x"}, "bad.jsonl, line 2: expected an object"),
    ],
)
def test_the_bad_line_is_named_and_nothing_starts(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Any, message: str
) -> None:
    def nothing(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("outpace.train.jobs.load", nothing)
    bad = lines(tmp_path / "bad.jsonl", [PAIRS[0], line, PAIRS[1]])
    outcome = train(run, folder, tmp_path / "new", "--data", str(bad))
    assert outcome.status == 2 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"prompt_ids": [1], "token_ids": [7, 300]}, "the token id 300, accepted are 0 to 299"),
        ({"prompt_ids": [1] * 512, "token_ids": [7]}, "512 tokens or more, accepted are shorter ones"),
    ],
)
def test_ids_that_the_model_cannot_read_are_named(
    run: Run, folder: Path, tmp_path: Path, item: Any, message: str
) -> None:
    lines(tmp_path / "ids.jsonl", [item])
    outcome = train(run, folder, tmp_path / "new", "--data", str(tmp_path / "ids.jsonl"), data="")
    assert outcome.status == 2 and message in outcome.err and outcome.err.count("\n") == 1


def test_a_folder_with_the_states_of_other_data_is_refused(
    run: Run, folder: Path, heads: Path, tmp_path: Path
) -> None:
    other = lines(tmp_path / "other.jsonl", PAIRS[::-1])
    outcome = train(run, folder, heads, "--data", str(other), data="")
    assert (
        outcome.status == 2
        and "files of data='sha256:" in outcome.err
        and outcome.err.endswith("; accepted are the same or a new folder\n")
    )
    outcome = train(run, folder, heads, "--target", str(folder / "other.gguf"))
    assert outcome.status == 2 and "files of target='sha256:" in outcome.err


def test_own_text_trains_heads_over_frequent_tokens(run: Run, folder: Path, tmp_path: Path) -> None:
    args = ["--own-text", "300", "--tokens", "32", "--heads", "3", "--steps", "5"]
    outcome = train(run, folder, tmp_path, *args, data="")
    assert outcome.status == 0, outcome.err
    records = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    written = [token for record in records for token in record["token_ids"]]
    assert len(written) >= 300
    ids = read_heads(tmp_path).token_ids
    assert ids is not None and len(ids) == min(32, len(set(written))) and set(ids.tolist()) <= set(written)
    outcome = run(
        "generate", "x", "-m", str(folder / "tiny.gguf"), "--draft", f"blockwise:path={tmp_path},min_p=0",
        "--max-tokens", "20", "--compare",
    )  # fmt: skip
    assert outcome.status == 0 and "identical: yes" in outcome.out


def test_distilled_outputs_are_the_models_own(run: Run, folder: Path, tmp_path: Path) -> None:
    """More of them than its cache has room for at once."""
    data = lines(
        tmp_path / "data.jsonl",
        [{**pair, "prompt": f"{pair['prompt']} {n}"} for n in (1, 2) for pair in PAIRS],
    )
    args = ["--data", str(data), "--data-regime", "distilled", "--steps", "2"]
    outcome = train(run, folder, tmp_path / "new", *args, data="")
    assert outcome.status == 0, outcome.err
    records = [json.loads(line) for line in (tmp_path / "new" / "distilled.jsonl").read_text().splitlines()]
    assert [record["source"] for record in records] == [f"{p['prompt']} {n}" for n in (1, 2) for p in PAIRS]
    model = outpace.load(folder / "tiny.gguf")
    for record in records[::5]:
        alone = model.generate(record["source"], draft="none", max_tokens=256)
        assert record["target"] == model.tokenizer.decode(alone.token_ids)
        assert record["token_ids"] == alone.token_ids


def test_outputs_that_were_cut_off_get_no_end(folder: Path, marian: str) -> None:
    """Neither a decoder's answers nor translations."""
    ended, cut_off = (Pair("what", "tea and ants", one) for one in (True, False))
    model = outpace.load(folder / "tiny.gguf")
    (given, wanted), (_, without) = token_pairs([ended, cut_off], model, 99)
    assert wanted == [*without, min(model.tokenizer.eos_ids)] and given == model.prompt_ids("what")
    tokenizer = transformers.AutoTokenizer.from_pretrained(marian)
    end = tokenizer.eos_token_id

    class Ending:
        """As Marian's own tokenizer ends what it reads."""

        eos_token_id = end

        def __call__(self, *, text_target: list[str], **cut: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[*ids, end] for ids in tokenizer(text_target)["input_ids"]]}

    rows = _target_ids([ended, cut_off], Ending(), {"max_length": 99})
    assert rows[0] == [*rows[1], end] and end not in rows[1]
    assert _target_ids([cut_off], tokenizer, {"max_length": 99}) == rows[1:], (
        "one that writes no ends loses nothing"
    )


@pytest.mark.parametrize("regime", ["frozen", "finetuned"])
def test_a_translation_model(run: Run, folder: Path, tmp_path: Path, marian: str, regime: str) -> None:
    args = ["--target", marian, "--regime", regime, "--heads", "3", "--width", "8", "--steps", "3"]
    outcome = train(run, folder, tmp_path, *args, data="sources.jsonl")
    assert outcome.status == 0 and outcome.out == f"{tmp_path}: 3 heads for {marian}\n", outcome.err
    before = transformers.MarianMTModel.from_pretrained(marian)
    target = read_heads(tmp_path).config.target
    assert (tmp_path / "model").exists() == (regime == "finetuned")
    if regime == "frozen":
        assert target == model_fingerprint(before)
    else:
        after = transformers.MarianMTModel.from_pretrained(tmp_path / "model")
        assert target == model_fingerprint(after) != model_fingerprint(before)


@pytest.mark.parametrize("beams", [1, 4])
def test_a_translation_model_distilled(
    run: Run, folder: Path, tmp_path: Path, marian: str, beams: int
) -> None:
    """The best of a teacher's beams; the model's own output is greedy."""
    data = lines(tmp_path / "two.jsonl", SOURCES[:2])
    args = ["--data", str(data), "--target", marian, "--data-regime", "distilled"]
    args += ["--teacher", marian] if beams > 1 else []
    outcome = train(run, folder, tmp_path / "new", *args, "--steps", "2", data="")
    assert outcome.status == 0, outcome.err
    records = [json.loads(line) for line in (tmp_path / "new" / "distilled.jsonl").read_text().splitlines()]
    model = transformers.MarianMTModel.from_pretrained(marian).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(marian)
    for record, pair in zip(records, SOURCES[:2], strict=True):
        ids = tokenizer(pair["source"], return_tensors="pt")["input_ids"]
        wanted = model.generate(input_ids=ids, num_beams=beams, do_sample=False, max_new_tokens=256)[0]
        assert record == {
            "source": pair["source"], "target": tokenizer.decode(wanted, skip_special_tokens=True),
            "token_ids": wanted[1:].tolist(), "ended": False,
        }  # fmt: skip


def test_a_model_that_learns_its_own_output_reads_the_data_in_turns(
    run: Run, folder: Path, tmp_path: Path, marian: str
) -> None:
    data = lines(tmp_path / "two.jsonl", SOURCES[:2])
    args = ["--data", str(data), "--target", marian, "--regime", "finetuned", "--steps", "3"]
    written = []
    for number, more in enumerate(([], ["--data-regime", "distilled", "--weights", "equal"])):
        output = tmp_path / str(number)
        outcome = train(run, folder, output, *args, *more, "--model-rate", "0.3", data="")
        assert outcome.status == 0, outcome.err
        written.append(json.loads((output / "run.json").read_text())["settings"])
    gold, own = written
    assert (gold["gold"], own["gold"]) == (False, True) and gold["trunk"] == own["trunk"] == 0.3
    assert gold["weights"][0] == 0.5 and own["weights"] == [0.25] * 4
    assert gold["data"] != own["data"] and own["heads_first"] == 0.2


def test_markov_heads_of_a_translation_model(run: Run, folder: Path, tmp_path: Path, marian: str) -> None:
    """They learn its own output, and draft in `accelerate` what changes nothing."""
    data = lines(tmp_path / "some.jsonl", SOURCES[:2])
    args = ["train", "markov_heads", "-o", str(tmp_path / "new"), "--target", marian, "--steps", "3"]
    args += ["--length", "3", "--width", "8", "--rank", "4", "--segments", "2", "--threads", "1"]
    outcome = run(*args, "--data", str(data))
    assert outcome.status == 0 and outcome.out.startswith(f"{tmp_path / 'new'}: a block of 3 positions")
    own = [json.loads(line) for line in (tmp_path / "new" / "distilled.jsonl").read_text().splitlines()]
    assert [record["source"] for record in own] == [pair["source"] for pair in SOURCES[:2]]
    states = tmp_path / "new" / "features" / "tokens.i32"
    assert len(np.fromfile(states, np.int32)) == sum(len(record["token_ids"]) for record in own)
    model = transformers.MarianMTModel.from_pretrained(marian).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(marian)
    ids = tokenizer([pair["source"] for pair in SOURCES[:1]], return_tensors="pt")["input_ids"]
    fast = outpace.accelerate(model, draft=f"markov_heads:path={tmp_path / 'new'}", tree="chain:length=3")
    (drafted,) = fast.generations(ids, torch.ones_like(ids), max_new_tokens=20)
    assert drafted.token_ids == model.generate(ids, max_new_tokens=20, do_sample=False)[0, 1:].tolist()
    assert drafted.stats.num_drafted > 0
    assert run(*args, "--data", str(data)).status == 0, "it is all there"
    outcome = run(*args, "--own-text", "9", "-o", str(tmp_path / "other"))
    assert outcome.status == 2 and "accepted are source and target" in outcome.err


def test_what_a_model_has_said_is_taken_as_its_tokens(folder: Path, marian: str) -> None:
    """Though its text would be encoded otherwise."""
    model = outpace.load(folder / "tiny.gguf")
    said = [*model.tokenizer.encode("t", add_special_tokens=False), 9, 9]
    pair = Pair("what", "tea", True, said)
    assert token_pairs([pair], model, 99)[0][1] == said
    tokenizer = transformers.AutoTokenizer.from_pretrained(marian)
    assert _target_ids([pair], tokenizer, {"max_length": 99}) == [said]


def test_a_decoder_is_finetuned_by_transformers(run: Run, folder: Path, tmp_path: Path) -> None:
    source = str(folder / "llama")
    write_hf(source, "llama", num_hidden_layers=1)
    items = [
        *PAIRS,
        {"prompt_ids": [5] * 600, "token_ids": [7]},
        {"prompt_ids": [5] * 505, "token_ids": [7] * 20},
    ]
    data = lines(tmp_path / "data.jsonl", items)
    args = ["--data", str(data), "--target", source, "--regime", "finetuned", "--heads", "3", "--steps", "9"]
    outcome = train(run, folder, tmp_path / "new", *args, data="")
    assert outcome.status == 0 and outcome.out == f"{tmp_path / 'new'}: 3 heads for {source}\n", outcome.err
    after = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "new" / "model")
    assert read_heads(tmp_path / "new").config.target == model_fingerprint(after)


def test_a_damaged_model_folder_gets_one_line(run: Run, folder: Path, tmp_path: Path, marian: str) -> None:
    import shutil

    shutil.copytree(marian, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    args = ["--target", str(tmp_path / "damaged")]
    outcome = train(run, folder, tmp_path / "new", *args, data="sources.jsonl")
    assert outcome.status == 2 and "cannot be loaded by transformers" in outcome.err
    assert outcome.err.count("\n") == 1
