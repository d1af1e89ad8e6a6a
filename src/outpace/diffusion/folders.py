"""Folders that diffusers saved: read without running anything that is in them, within what their size allows.

diffusers imports files and modules that a folder's model_index.json names, and unpickles weights. Here the
parts are known by name: a U-Net and a scheduler of diffusers itself, weights from safetensors alone. Before
any memory is taken, the model is built without storage and called once, by sizes alone: what it holds has to
fit into the bytes of its files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock, get_ident
from typing import Any

import torch
from torch.nn.modules import module as registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from outpace.core.errors import OutpaceError
from outpace.core.options import shown
from outpace.diffusion.foreign import one_line
from outpace.diffusion.schedulers import check_known
from outpace.diffusion.shapes import needs_labels, shape_of
from outpace.files.json_files import json_file
from outpace.files.regular import open_regular

MODELS = "UNet2DModel", "UNet1DModel"
PARTS = {"unet": "config.json", "scheduler": "scheduler_config.json"}
WEIGHTS = "diffusion_pytorch_model.safetensors"

MOST_CONFIG_BYTES = 2**20
MOST_NUMBER = 2**20  # in a config; channels, sizes and timesteps are smaller by far
MOST_ELEMENTS = 2**30  # of one tensor in a call with one state
FREE_ELEMENTS = 2**16  # that a model may hold beyond its files, such as filters that are not saved
LEAST_TENSOR_BYTES = 32  # of one tensor in a header of safetensors

_LOADING = RLock()  # what diffusers prints is a setting of the process


def load_pipeline(folder: Path | str, *, device: torch.device | str = "cpu") -> Any:
    """The pipeline of unet and scheduler that diffusers saved in a folder, in evaluation mode.

    Raises OutpaceError for any other folder, before anything that is in it could run.
    """
    path = Path(folder)
    if not (path / "model_index.json").is_file():
        raise OutpaceError(f"{path} has no model_index.json; accepted is the folder of a saved pipeline")
    pipeline, classes = _named(path)
    configs = {part: _config(path / part / name) for part, name in PARTS.items()}
    num_bytes = _weight_bytes(path / "unet")
    try:
        import diffusers
    except ImportError as error:
        raise OutpaceError(
            f"pipelines need the extra diffusion (pip install 'outpace[diffusion]'): {error}"
        ) from None
    with _quiet(diffusers.utils.logging), one_line(f"{path} cannot be loaded by diffusers"):
        made = getattr(diffusers, pipeline, None)
        if not (isinstance(made, type) and issubclass(made, diffusers.DiffusionPipeline)):
            raise OutpaceError(f"{path} is of a pipeline {pipeline!r}, accepted are those of diffusers")
        model, scheduler = (getattr(diffusers, classes[part]) for part in PARTS)
        _try_out(path / "unet", model, configs["unet"], num_bytes)
        # Without low_cpu_mem_usage=False it complains that accelerate is missing.
        unet, found = model.from_pretrained(
            path / "unet", local_files_only=True, low_cpu_mem_usage=False, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
        for what, kind in {"lack": "missing_keys", "have no place for": "unexpected_keys"}.items():
            if found[kind]:
                raise OutpaceError(f"the weights in {path / 'unet'} {what} {sorted(found[kind])[0]!r}")
        steps = scheduler.from_pretrained(path / "scheduler", local_files_only=True)
        return made(unet=unet, scheduler=steps).to(device)


def _named(path: Path) -> tuple[str, dict[str, str]]:
    """(the pipeline's class, the class of each part) that an index names; all of them diffusers' own."""
    index = _config(path / "model_index.json", values=(str, int, float, list, type(None)))
    pipeline = index.get("_class_name")
    if isinstance(pipeline, list) or (path / "pipeline.py").exists():
        raise OutpaceError(
            f"{path} brings code for its pipeline, which is not run; accepted are pipelines of diffusers"
        )
    if not isinstance(pipeline, str):
        raise OutpaceError(
            f"{path / 'model_index.json'} has the _class_name {shown(pipeline)}, accepted are pipelines of"
            " diffusers"
        )
    parts = {
        name: value
        for name, value in index.items()
        if isinstance(value, list) and not name.startswith("_") and value != [None, None]
    }
    if parts.keys() != PARTS.keys():
        given = ", ".join(sorted(map(shown, parts))) or "nothing"
        raise OutpaceError(f"{path} is made of {given}; accepted are pipelines of unet and scheduler")
    classes = {}
    for name, value in parts.items():
        library, made = value if len(value) == 2 else (value, None)
        if library != "diffusers" or not isinstance(made, str):
            raise OutpaceError(
                f"{path}: its {name} is {shown(made)} of {shown(library)}, whose code is not run; accepted"
                " are classes of diffusers"
            )
        classes[name] = made
    if classes["unet"] not in MODELS:
        raise OutpaceError(f"{path}: its unet is {classes['unet']!r}, accepted are {', '.join(MODELS)}")
    check_known(classes["scheduler"])
    return pipeline, classes


def _config(path: Path, values: tuple[type, ...] = (object,)) -> dict[str, Any]:
    """The JSON object of a small file whose numbers are of a size that a model may have."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
    except OSError as error:
        raise OutpaceError(f"cannot read {path}: {error.strerror or error}") from None
    if size > MOST_CONFIG_BYTES:
        raise OutpaceError(f"{path} has {size} bytes, accepted are {MOST_CONFIG_BYTES} at most")
    config = json_file(path)
    for name, value in config.items():
        numbers = value if isinstance(value, list) else [value]
        if not isinstance(value, values):
            raise OutpaceError(f"{path}: {name} is {shown(value)}, which no pipeline has")
        for number in numbers:
            if not isinstance(number, int | float) or number in (math.inf, -math.inf):
                continue  # no bound is written as infinity
            if not -MOST_NUMBER <= number <= MOST_NUMBER:
                raise OutpaceError(
                    f"{path}: {name} is {shown(number)}, accepted are numbers of {MOST_NUMBER} at most"
                )
    return config


def _weight_bytes(folder: Path) -> int:
    """The size of a model's files; OutpaceError where they are not of safetensors."""
    index = folder / f"{WEIGHTS}.index.json"
    names: Any = [WEIGHTS]
    if index.is_file():
        weights = json_file(index).get("weight_map")
        names = list(weights.values()) if isinstance(weights, dict) else []
        if not names:
            raise OutpaceError(f"{index} has no weight_map")
    total = 0
    for name in {shown(name): name for name in names}.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise OutpaceError(f"{index} names the file {shown(name)}, accepted are .safetensors beside it")
        try:
            with open_regular(folder / name) as file:
                total += file.seek(0, 2)
        except FileNotFoundError:
            others = sorted(file.name for file in folder.glob("*.bin"))
            hint = f"; {others[0]!r} could run code when it is read, and is not" if others else ""
            raise OutpaceError(f"{folder} has no weights, accepted is {name}{hint}") from None
        except OSError as error:
            raise OutpaceError(f"cannot read {folder / name}: {error.strerror or error}") from None
    return total


def _try_out(folder: Path, made: Any, config: Mapping[str, Any], num_bytes: int) -> None:
    """Builds a model without storage and calls it with a state of its own shape.

    OutpaceError where it has more than its files can hold, or does not take what it says it takes.
    """
    if config.get("quantization_config") is not None:
        raise OutpaceError(f"{folder} is quantised, accepted are models without quantization_config")
    with torch.device("meta"), torch.no_grad(), _bounded(folder, num_bytes):
        model = made.from_config(dict(config)).eval()
    shape = shape_of(model)
    state, time = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    labels = [torch.zeros(1, dtype=torch.int64, device="meta")] if needs_labels(model) else []
    with torch.no_grad(), _Sizes(folder):
        output = model(state, time, *labels).sample
    if output.shape != state.shape:
        given, asked = tuple(output.shape[1:]), tuple(shape)
        raise OutpaceError(f"{folder}: the model gives {given} for a state of {asked}, its own is accepted")


@contextmanager
def _bounded(folder: Path, num_bytes: int) -> Iterator[None]:
    """A model that is built holds no more tensors and elements than such files can have."""
    left = [num_bytes // LEAST_TENSOR_BYTES + 64, num_bytes + FREE_ELEMENTS]
    thread = get_ident()

    def registered(_: Any, name: str, value: Any) -> None:
        if get_ident() != thread or value is None:
            return
        left[0] -= 1
        left[1] -= value.numel()
        if min(left) < 0:
            raise OutpaceError(
                f"{folder / 'config.json'} is of a larger model than the {num_bytes} bytes of its weights"
            )

    hooks = [
        registration.register_module_parameter_registration_hook(registered),
        registration.register_module_buffer_registration_hook(registered),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses results that no machine should be asked to hold."""

    def __init__(self, folder: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder = folder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor) and result.numel() > MOST_ELEMENTS:
                shape = tuple(result.shape)
                raise OutpaceError(
                    f"{self._folder / 'config.json'}: one state takes a tensor of {shape}, accepted are"
                    f" {MOST_ELEMENTS} elements"
                )
        return results


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """diffusers prints neither progress nor what a folder's files would have it print."""
    with _LOADING:
        bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity(logging.CRITICAL)
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
