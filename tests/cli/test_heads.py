"""`outpace heads`: folders of others become drafts that change no token, and go out again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from outpace.heads.eagle import read_eagle  # noqa: E402
from tests.cli.conftest import Outcome  # noqa: E402
from tests.eagle_heads import write_random_eagle  # noqa: E402
from tests.fake_models import write_gguf  # noqa: E402
from tests.foreign_heads import (  # noqa: E402
    DRAFTED,
    bits,
    config_in,
    write_block_speculators,
    write_dflash,
    write_dspark,
    write_eagle1,
    write_eagle3,
    write_medusa,
    write_speculators,
    write_vllm_medusa,
)
from tests.heads.foreign.conftest import LAYERS  # noqa: E402
from tests.made_heads import write_random_markov  # noqa: E402
from tests.native_models import gguf_target  # noqa: E402

Run = Callable[..., Outcome]
LAYOUTS: dict[str, list[Callable[..., Any]]] = {
    "dflash": [write_dflash, write_dspark, write_block_speculators],
    "eagle": [write_eagle1, write_eagle3, write_speculators],
    "medusa": [write_medusa, write_vllm_medusa],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("heads")
    write_gguf(made / "tiny.gguf", "llama", num_hidden_layers=LAYERS)
    write_gguf(made / "short.gguf", "llama", num_hidden_layers=2)
    return made


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model."""
    return gguf_target(tmp_path_factory.mktemp("target"), "llama", "F32", num_hidden_layers=LAYERS)


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))


@pytest.mark.parametrize("method", LAYOUTS)
def test_what_is_taken_in_drafts_and_changes_nothing(
    run: Run, folder: Path, tmp_path: Path, method: str
) -> None:
    model = str(folder / "tiny.gguf")
    for number, write in enumerate(LAYOUTS[method]):
        theirs, ours = tmp_path / f"theirs{number}", tmp_path / f"ours{number}"
        write(theirs)
        outcome = run("heads", "doctor", str(theirs), "-m", model)
        assert outcome.status == 0, outcome.out + outcome.err
        assert f"{model}: yes" in outcome.out and outcome.out.splitlines()[-1].endswith("well")
        outcome = run("heads", "import", str(theirs), "-m", model, "-o", str(ours))
        assert outcome.status == 0, outcome.err
        assert outcome.out.endswith(f"for {model}; --draft {method}:path={ours}\n")
        draft = f"{method}:path={ours}"
        for sampled in ([], ["--temperature", "0.9", "--seed", "4"]):
            outcome = run(
                "generate", "The moon", "-m", model, "--draft", f"{draft} tree=chain:length=3", "--compare",
                "--max-tokens", "24", "--raw", "--json", *sampled,
            )  # fmt: skip
            record = json.loads(outcome.out)
            assert outcome.status == 0 and record["identical_to_plain"] and record["num_drafted"] > 0
        outcome = run("heads", "doctor", str(ours), "-m", model)
        assert outcome.status == 0 and "made for Outpace" in outcome.out and f"{model}: yes" in outcome.out
        outcome = run("heads", "doctor", str(ours), "-m", str(folder / "short.gguf"))
        assert outcome.status == 1 and "trained on another model, by its fingerprint" in outcome.out
        outcome = run("heads", "export", str(ours), "-o", str(tmp_path / f"again{number}"))
        assert outcome.status == 0, outcome.err
        outcome = run("heads", "import", str(theirs), "-m", model, "-o", str(ours))
        assert outcome.status == 2 and "exists, accepted is a new folder or an empty one" in outcome.err


def test_notes_go_to_standard_error(run: Run, folder: Path, tmp_path: Path) -> None:
    write_eagle1(tmp_path / "a")
    args = ["-m", str(folder / "tiny.gguf"), "-o", str(tmp_path / "b")]
    outcome = run("heads", "import", str(tmp_path / "a"), *args)
    assert outcome.err == "note: embed_tokens.weight: the target's own, not read\n"


def test_doctor_lists_what_is_wrong(run: Run, tmp_path: Path) -> None:
    def change(config: dict[str, object], tensors: dict[str, object]) -> None:
        del tensors["norm.weight"], tensors["fc.weight"]
        tensors["odd"] = torch.ones(2)

    write_speculators(tmp_path, change=change)
    outcome = run("heads", "doctor", str(tmp_path))
    lines = [line.split(maxsplit=1) for line in outcome.out.splitlines()]
    assert outcome.status == 1 and outcome.err == ""
    assert ["missing", "fc.weight, floats [64, 192]"] in lines
    assert ["missing", "norm.weight, floats [64]"] in lines
    assert any("nobody reads" in line and "odd F32[2]" in line for line in outcome.out.splitlines())
    assert outcome.out.splitlines()[-1].endswith("not usable as it is")


def test_a_pickle_needs_a_word(run: Run, folder: Path, tmp_path: Path) -> None:
    _, tensors = write_eagle1(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "a" / "pytorch_model.bin")
    model, output = ["-m", str(folder / "tiny.gguf")], ["-o", str(tmp_path / "b")]
    for command in (["doctor"], ["import", *model, *output]):
        outcome = run("heads", *command, str(tmp_path / "a"))
        assert outcome.status == (1 if command[0] == "doctor" else 2)
        assert "is a pickle, which may hold a program" in outcome.out + outcome.err
        outcome = run("heads", *command, str(tmp_path / "a"), "--allow-pickle")
        assert outcome.status == 0, outcome.err


def test_export_says_the_models_name(run: Run, folder: Path, tmp_path: Path, target: Any) -> None:
    """A folder that does not say the vocabulary needs the model."""
    write_random_eagle(tmp_path / "a", target, taps=("1", "3"))
    assert read_eagle(tmp_path / "a").config.vocab_size == 0
    command = ["heads", "export", str(tmp_path / "a"), "-o", str(tmp_path / "b")]
    outcome = run(*command)
    assert outcome.status == 2 and "accepted is --model MODEL" in outcome.err
    outcome = run(*command, "-m", str(folder / "tiny.gguf"), "--target-name", "org/tiny")
    assert outcome.status == 0, outcome.err
    verifier = config_in(tmp_path / "b")["speculators_config"]["verifier"]
    assert verifier == {"name_or_path": "org/tiny", "architectures": ["LlamaForCausalLM"]}
    assert bits(tmp_path / "b").keys() > {"d2t", "t2d"}


def test_bad_input_gets_one_line(run: Run, folder: Path, tmp_path: Path, target: Any) -> None:
    model = str(folder / "tiny.gguf")
    write_random_markov(tmp_path / "markov", target)
    write_speculators(tmp_path / "good")
    bert = tmp_path / "llama"
    bert.mkdir()
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "peagle").mkdir()
    (tmp_path / "peagle" / "config.json").write_text(json.dumps({"speculators_model_type": "peagle"}))
    output = ["-o", str(tmp_path / "out")]
    cases = [
        (["doctor", "nowhere"], "there is no folder nowhere, accepted are folders of Medusa"),
        (["doctor", str(tmp_path / "file")], "file is no folder, accepted are folders of Medusa"),
        (["doctor", str(tmp_path / "empty")], "empty has no config.json, accepted are folders of Medusa"),
        (["doctor", str(bert)], "holds no trained heads that are known here; accepted are"),
        (["doctor", str(tmp_path / "good"), "-m", "nowhere.gguf"], "nowhere.gguf"),
        (
            ["import", str(tmp_path / "peagle"), "-m", model, *output],
            "holds a P-EAGLE layer, which no drafter",
        ),
        (["import", str(tmp_path / "markov"), "-m", model, *output], "is a folder of Outpace already"),
        (
            ["import", str(tmp_path / "good"), "-m", str(folder / "short.gguf"), *output],
            "the output of layer 3, the model has the layers 0 to 1",
        ),
        (["import", str(tmp_path / "good"), "-m", model, "-o", str(tmp_path / "file")], "accepted is a new"),
        (["import", str(tmp_path / "good"), "-m", model, "-o", str(tmp_path / "file" / "x")], "cannot write"),
        (
            ["export", str(tmp_path / "markov"), *output],
            "'markov_heads', which no other engine reads; accepted",
        ),
        (
            ["export", str(tmp_path / "good"), *output],
            "is no folder of Outpace, accepted are heads of eagle,",
        ),
    ]
    for args, message in cases:
        outcome = run("heads", *args)
        assert outcome.status == 2 and outcome.out == "", args
        assert message in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert not (tmp_path / "out").exists()
    outcome = run("heads", "doctor", str(tmp_path / "peagle"))
    assert (
        outcome.status == 1
        and "a P-EAGLE layer" in outcome.out
        and "no drafter of Outpace runs" in outcome.out
    )


def test_nothing_of_it_loads_torch(tmp_path: Path) -> None:
    write_eagle3(tmp_path / "a")
    code = (
        "import sys; from outpace.cli.main import main; "
        f"status = main(['heads', 'doctor', {str(tmp_path / 'a')!r}]); "
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(DRAFTED)}" in done.stdout
