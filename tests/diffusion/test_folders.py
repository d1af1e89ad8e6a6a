"""Folders of pipelines: nothing in them runs, whatever they name; damaged and absurd ones get one line."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import shutil
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file  # noqa: E402

from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.diffusion import accelerate  # noqa: E402
from outpace.diffusion.folders import load_pipeline  # noqa: E402
from outpace.diffusion.sources import open_source  # noqa: E402
from tests.diffusion_pipelines import save_pipeline, tiny_unet  # noqa: E402

NOTHING: list[Any] = []
NESTED = functools.reduce(lambda inner, _: [inner], range(480), NOTHING)
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
PICKLED = "unet/diffusion_pytorch_model.bin"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "folder"))


def edit(path: Path, **values: Any) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | values))


class Leaves:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_the_pipeline_that_was_saved(saved: Path) -> None:
    pipeline = load_pipeline(saved)
    assert type(pipeline).__name__ == "DDPMPipeline" and not pipeline.unet.training
    weights = tiny_unet().state_dict()
    loaded = pipeline.unet.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    assert pipeline.scheduler.config == diffusers.DDPMScheduler.from_pretrained(saved / "scheduler").config


def test_sharded_weights_and_links_into_a_cache(saved: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    diffusers.DDPMPipeline(tiny_unet(), diffusers.DDPMScheduler()).save_pretrained(
        shards, max_shard_size="20KB"
    )
    assert (shards / f"{WEIGHTS}.index.json").is_file()
    linked = tmp_path / "linked"
    for file in (path for path in shards.rglob("*") if path.is_file()):
        (linked / file.relative_to(shards)).parent.mkdir(parents=True, exist_ok=True)
        (linked / file.relative_to(shards)).symlink_to(file)
    loaded = load_pipeline(linked).unet.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in tiny_unet().state_dict().items())


def test_weights_with_the_names_of_old_attention(folder: Path) -> None:
    """As in the first models that were published, such as google/ddpm-cifar10-32."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(folder / WEIGHTS)
    renamed = {}
    for name, value in weights.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = value.clone()
    assert renamed.keys() != weights.keys()
    save_file(renamed, folder / WEIGHTS)
    loaded = load_pipeline(folder).unet.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_models_of_one_dimension(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = diffusers.UNet1DModel(
        sample_size=32, down_block_types=("DownResnetBlock1D",) * 2, up_block_types=("UpResnetBlock1D",),
        mid_block_type="MidResTemporalBlock1D", out_block_type="OutConv1DBlock", block_out_channels=(8, 16),
        time_embedding_type="positional", use_timestep_embedding=True, act_fn="mish",
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    fast = accelerate(load_pipeline(tmp_path))
    assert fast.shape == (2, 32)
    images = fast(2, num_inference_steps=4, output_type="latent").images
    assert images.shape == (2, 2, 32) and images.isfinite().all()


# --- code ---------------------------------------------------------------------------------------------------


def with_pipeline_code(folder: Path, code: str) -> None:
    (folder / "pipeline.py").write_text(code)
    edit(folder / "model_index.json", _class_name=["pipeline", "Mine"])


def with_pipeline_code_beside(folder: Path, code: str) -> None:
    (folder / "pipeline.py").write_text(code)


def with_part_code(folder: Path, code: str) -> None:
    (folder / "unet" / "mine.py").write_text(code)
    edit(folder / "model_index.json", unet=["mine", "UNet2DModel"])


def with_a_module_of_the_path(folder: Path, code: str) -> None:
    (folder / "outpace_test_mine.py").write_text(code)
    edit(folder / "model_index.json", scheduler=["outpace_test_mine", "DDPMScheduler"])


def with_a_loaded_module(folder: Path, code: str) -> None:
    edit(folder / "model_index.json", scheduler=["subprocess", "Popen"])


def with_a_part_more(folder: Path, code: str) -> None:
    (folder / "helper").mkdir()
    (folder / "helper" / "mine.py").write_text(code)
    edit(folder / "model_index.json", helper=["mine", "Helper"])


def with_an_automatic_class(folder: Path, code: str) -> None:
    (folder / "unet" / "mine.py").write_text(code)
    edit(folder / "unet" / "config.json", auto_map={"AutoModel": "mine.UNet2DModel"})
    edit(folder / "model_index.json", unet=["diffusers", "AutoModel"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_pipeline_code, "brings code for its pipeline, which is not run"),
        (with_pipeline_code_beside, "brings code for its pipeline, which is not run"),
        (with_part_code, "its unet is 'UNet2DModel' of 'mine', whose code is not run"),
        (with_a_module_of_the_path, "its scheduler is 'DDPMScheduler' of 'outpace_test_mine', whose code"),
        (with_a_loaded_module, "its scheduler is 'Popen' of 'subprocess', whose code is not run"),
        (with_a_part_more, "is made of 'helper', 'scheduler', 'unet'; accepted are pipelines of unet"),
        (with_an_automatic_class, "its unet is 'AutoModel', accepted are UNet2DModel, UNet1DModel"),
    ],
)
def test_code_in_a_folder_is_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, str], None], message: str
) -> None:
    mark = folder.parent / "ran"
    change(
        folder,
        f"""
import pathlib
pathlib.Path({str(mark)!r}).touch()
from diffusers import DDPMPipeline as Mine, DDPMScheduler, UNet2DModel
""",
    )
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(OutpaceError, match=message):
        load_pipeline(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", [PICKLED, "unet/diffusion_pytorch_model.safetensors"])
def test_pickled_weights_are_not_read(folder: Path, name: str) -> None:
    """Not by their own name, nor by that of better ones."""
    mark = folder.parent / "ran"
    (folder / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Leaves(mark)}, folder / name)
    with pytest.raises(OutpaceError) as error:
        load_pipeline(folder)
    assert "'diffusion_pytorch_model.bin' could run code" in str(error.value) or name == WEIGHTS
    assert not mark.exists()
    pickle.loads(pickle.dumps(Leaves(mark)))
    assert mark.exists(), "it would have been made"


def test_an_index_names_safetensors_alone(folder: Path) -> None:
    mark, index = folder.parent / "ran", folder / f"{WEIGHTS}.index.json"
    torch.save({"conv_in.weight": Leaves(mark)}, folder / PICKLED)
    for name in "diffusion_pytorch_model.bin", "../x.safetensors", 5, None, ["a.safetensors"]:
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": name}}))
        with pytest.raises(OutpaceError, match=r"names the file .*, accepted are \.safetensors beside it"):
            load_pipeline(folder)
    for text in "{}", '{"weight_map": []}', '{"weight_map": {}}', "[]", "{":
        index.write_text(text)
        with pytest.raises(OutpaceError):
            load_pipeline(folder)
    assert not mark.exists()


def test_versions_of_diffusers_that_import_what_a_folder_names_are_not_accepted() -> None:
    """0.42.1 is the first that imports no library but its own and transformers' by a folder's word."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    [bound] = [
        requirement
        for requirement in map(Requirement, project["optional-dependencies"]["diffusion"])
        if requirement.name == "diffusers"
    ]
    assert "0.42.0" not in bound.specifier and "0.37.0" not in bound.specifier
    assert diffusers.__version__ in bound.specifier


# --- damaged and absurd -------------------------------------------------------------------------------------

INDEX, UNET, STEPS = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"


def test_folders_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match=r"has no model_index\.json"):
        load_pipeline(tmp_path)
    (tmp_path / INDEX).write_text('{"_class_name": "NoPipeline", "_diffusers_version": "0.42.1"}')
    with pytest.raises(OutpaceError, match="is made of nothing; accepted are pipelines of unet") as error:
        load_pipeline(tmp_path)
    assert str(error.value).startswith(str(tmp_path))


@pytest.mark.parametrize("name", [INDEX, UNET, STEPS])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\ufeff{}",
        '{"a": 1' + "0" * 5000 + "}",
        "[" * 100_000,
        "\x00",
        '{"_class_name"',
    ],
)
def test_files_that_hold_no_object(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(OutpaceError) as error:
        load_pipeline(folder)
    assert "\n" not in str(error.value) and name.rpartition("/")[2] in str(error.value)


@pytest.mark.parametrize("name", [INDEX, UNET, STEPS, WEIGHTS])
def test_special_and_missing_files(folder: Path, name: str) -> None:
    path = folder / name
    path.unlink()
    with pytest.raises(OutpaceError, match=r"cannot read|has no"):
        load_pipeline(folder)
    os.mkfifo(path)
    outcome: list[str] = []

    def load() -> None:
        with pytest.raises(OutpaceError) as error:
            load_pipeline(folder)
        outcome.append(str(error.value))

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(60)
    assert outcome, "it waits for somebody to write into the pipe"
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(OutpaceError):
        load_pipeline(folder)


def test_large_configs_are_not_read(folder: Path) -> None:
    with (folder / UNET).open("r+b") as file:
        file.truncate(2**33)
    with pytest.raises(OutpaceError, match=r"has 8589934592 bytes, accepted are 1048576 at most"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (INDEX, {"_class_name": "Nothing"}, "is of a pipeline 'Nothing', accepted are those of diffusers"),
        (INDEX, {"_class_name": "UNet2DModel"}, "is of a pipeline 'UNet2DModel'"),
        (INDEX, {"_class_name": "__name__"}, "is of a pipeline '__name__'"),
        (INDEX, {"_class_name": None}, "model_index.json has the _class_name None, accepted"),
        (INDEX, {"_class_name": "StableDiffusionPipeline"}, "cannot be loaded by diffusers: TypeError"),
        (INDEX, {"unet": [None, None]}, "is made of 'scheduler'"),
        (INDEX, {"unet": []}, r"its unet is None of \[\], whose code"),
        (INDEX, {"unet": ["diffusers", 5]}, "its unet is 5 of 'diffusers'"),
        (INDEX, {"unet": {"a": 1}}, "unet is {'a': 1}, which no pipeline has"),
        (INDEX, {"unet": ["diffusers", "UNet2DConditionModel"]}, "accepted are UNet2DModel, UNet1DModel"),
        (INDEX, {"scheduler": ["diffusers", "DDIMScheduler"]}, "adds no noise"),
        (INDEX, {"scheduler": ["diffusers", "UNet2DModel"]}, "not a scheduler that is known here"),
        (INDEX, {"vae": ["diffusers", "AutoencoderKL"]}, "made of 'scheduler', 'unet', 'vae'"),
        (UNET, {"in_channels": 10**30}, "in_channels is 10{30}, accepted are numbers of 1048576 at most"),
        (UNET, {"norm_eps": float("nan")}, "norm_eps is nan"),
        (UNET, {"block_out_channels": [8, 10**9]}, "block_out_channels is 1000000000"),
        (UNET, {"block_out_channels": [8, 500_000]}, "of a larger model than the .* bytes of its weights"),
        (UNET, {"layers_per_block": 2**20}, "of a larger model than the .* bytes of its weights"),
        (UNET, {"num_class_embeds": 2**20}, "of a larger model than the .* bytes of its weights"),
        (UNET, {"layers_per_block": 2}, "cannot be loaded by diffusers: RuntimeError: .* size mismatch"),
        (UNET, {"add_attention": False, "mid_block_type": None}, "have no place for 'mid_block"),
        (UNET, {"block_out_channels": [8, 8]}, "cannot be loaded by diffusers: "),
        (UNET, {"block_out_channels": "wide"}, "cannot be loaded by diffusers: "),
        (UNET, {"layers_per_block": "1"}, "cannot be loaded by diffusers: "),
        (UNET, {"norm_num_groups": 0}, "cannot be loaded by diffusers: "),
        (UNET, {"attention_head_dim": 0}, "cannot be loaded by diffusers: ZeroDivisionError"),
        (UNET, {"sample_size": 2**20}, "sample_size 1048576; accepted are whole numbers from 1 to 65536"),
        (UNET, {"sample_size": 65536}, "one state takes a tensor of .*, accepted are 1073741824 elements"),
        (UNET, {"downsample_padding": 2**20}, "one state takes a tensor of"),
        (UNET, {"sample_size": 8.5}, "sample_size 8.5; accepted are whole numbers"),
        (UNET, {"sample_size": [8, 8, 8]}, "accepted are whole numbers"),
        (UNET, {"sample_size": "8"}, "sample_size '8'; accepted are whole numbers"),
        (UNET, {"sample_size": 0}, "sample_size 0; accepted are whole numbers"),
        (UNET, {"sample_size": None}, "no config with in_channels and sample_size"),
        (UNET, {"sample_size": 9}, "cannot be loaded by diffusers: RuntimeError"),
        (UNET, {"out_channels": 1}, r"gives \(1, 8, 8\) for a state of \(3, 8, 8\)"),
        (UNET, {"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantised"),
        (UNET, {"down_block_types": ["Evil\x1b[2J", "x"]}, r"Evil\\x1b\[2J"),
        (STEPS, {"num_train_timesteps": 10**12}, "num_train_timesteps is 1000000000000, accepted are"),
        (STEPS, {"num_train_timesteps": "many"}, "cannot be loaded by diffusers: "),
        (STEPS, {"beta_schedule": "none"}, "cannot be loaded by diffusers: NotImplementedError"),
    ],
)  # fmt: skip
def test_configs_that_cannot_be(folder: Path, name: str, values: dict[str, Any], message: str) -> None:
    edit(folder / name, **values)
    with pytest.raises(OutpaceError, match=message) as error:
        load_pipeline(folder)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "values",
    [
        {"num_train_timesteps": 0},
        {"num_train_timesteps": 3},
        {"num_train_timesteps": -5},
        {"beta_start": "a"},
        {"beta_start": 2.0, "beta_end": 3.0},
        {"beta_end": -3.0},
        {"trained_betas": [0.1]},
        {"trained_betas": [[0.1] * 10] * 10},
        {"trained_betas": "x" * 10},
        {"steps_offset": 10**6},
        {"steps_offset": "1"},
        {"timestep_spacing": 5},
        {"variance_type": ["fixed_small"]},
        {"clip_sample_range": "wide"},
        {"prediction_type": {}},
        {"thresholding": 5},
        {"unknown": NESTED},
    ],
)
def test_schedulers_that_cannot_be(folder: Path, values: dict[str, Any]) -> None:
    edit(folder / STEPS, **values)
    with pytest.raises(OutpaceError) as error:
        open_source(str(folder), 10)
    assert str(error.value).isprintable()


def test_weights_that_lack_a_tensor(folder: Path) -> None:
    """diffusers would leave random numbers in its place, and say so in a warning."""
    weights = load_file(folder / WEIGHTS)
    save_file({name: value for name, value in weights.items() if name != "conv_in.bias"}, folder / WEIGHTS)
    with pytest.raises(OutpaceError, match=r"weights in .*unet lack 'conv_in\.bias'"):
        load_pipeline(folder)


def test_damaged_weights(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    for damaged in (
        b"", whole[:5], whole[:100], whole[:-4], b"\xff" * 8 + whole[8:], b"version https://git-lfs",
        bytes(99), whole[:8] + b"[" + whole[9:],
    ):  # fmt: skip
        (folder / WEIGHTS).write_bytes(damaged)
        with pytest.raises(OutpaceError) as error:
            load_pipeline(folder)
        assert str(error.value).isprintable()
    (folder / WEIGHTS).write_bytes(whole)
    assert load_pipeline(folder).unet.config.sample_size == 8


def test_what_diffusers_would_say_of_a_folder_stays_unsaid(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A config's names would reach the terminal as they are."""
    edit(folder / UNET, **{"\x1b[2Jname": 1})
    edit(folder / STEPS, **{"\x1b[2Jname": 1})
    stream = io.StringIO()
    handler = diffusers.utils.logging.logging.StreamHandler(stream)
    diffusers.utils.logging.add_handler(handler)
    try:
        load_pipeline(folder)
    finally:
        diffusers.utils.logging.remove_handler(handler)
    assert stream.getvalue() == "" and capfd.readouterr() == ("", "")
