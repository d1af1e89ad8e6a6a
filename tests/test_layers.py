"""Imports go one way, core imports numpy alone, and `import outpace` imports next to nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import outpace

ROOT = Path(outpace.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# Each layer with those that it may import; every layer may import itself, and whatever those may import.
LAYERS: dict[str, list[str]] = {
    "core": [],
    "progress": ["core"],
    "files": ["progress"],
    "heads": ["files"],
    "pricing": ["core"],
    "rules": ["core"],
    "decode": ["core"],
    "trees": ["pricing", "heads"],
    "targets": ["heads", "pricing"],
    "drafters": ["decode", "rules", "trees", "heads"],
    "engine": ["decode", "files", "pricing"],
    "models": ["engine", "drafters", "targets"],
    "": ["models"],  # outpace/__init__.py
    "diffusion": ["files", "pricing"],
    "bench": [""],
    "train": [""],
    "server": [""],
    "serve": ["server"],
    "cli": ["bench", "train", "diffusion", "server"],
}
HEAVY = {"diffusers", "torch", "transformers"}
HEAVY_LAYERS = {"train", "diffusion"}
LAZY = re.compile(r"outpace(\.[a-z_0-9]+)+(:\w+)?")  # as tables of names say it


def reachable(layer: str) -> set[str]:
    return {layer}.union(*(reachable(below) for below in LAYERS[layer]))


def layer_of(name: str) -> str:
    """Of a full name; "" for what only `outpace/__init__.py` has."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else ""


def imports(module: Path, source: str) -> list[str]:
    """Full names of all that a module imports: in functions, for type checkers and by name too."""
    package = ["outpace", *module.relative_to(ROOT).with_suffix("").parts][:-1]
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *filter(None, [node.module])])
            # `from outpace import x` imports the module x, or a name of the package itself.
            names += [f"outpace.{a.name}" for a in node.names] if prefix == "outpace" else [prefix]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and LAZY.fullmatch(node.value):
            names.append(node.value.partition(":")[0])
    return names


def layer_of_module(module: Path) -> str:
    parts = module.relative_to(ROOT).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_imports_only_go_down(module: Path) -> None:
    layer = layer_of_module(module)
    assert layer in LAYERS, f"a new folder {layer} needs a line in LAYERS"
    for name in imports(module, module.read_text()):
        package = name.partition(".")[0]
        if name.startswith("outpace._native"):
            assert layer in ("targets", "bench"), f"{layer} must not import {name}"
        elif package == "outpace":
            assert layer_of(name) in reachable(layer), f"{layer} must not import {name}"
        elif layer == "core":
            assert package == "numpy" or package in sys.stdlib_module_names, f"core must not import {name}"
        elif package in HEAVY:
            allowed = layer in HEAVY_LAYERS or module.stem.startswith(("hf_", "pixel"))
            assert allowed, f"{module.name} must not import {name}"


def test_the_walk_sees_every_form_of_import() -> None:
    inner = "def f():\n    from outpace.engine import text\n"
    named = "x = 'outpace.trees.chain:Chain'\n"
    source = inner + "from .. import rules\nfrom . import tree\nimport torch.nn\n" + named
    names = imports(ROOT / "core" / "imagined.py", source)
    expected = {"engine", "rules", "core", "trees.chain"}
    assert set(names) == {"torch.nn", *(f"outpace.{name}" for name in expected)}


def test_import_outpace_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import outpace; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT.parent)},
    ).stdout.split()
    heavy = {"numpy", "torch", "transformers", "tokenizers", "jinja2", "typer", "rich", "llguidance"}
    assert "outpace" in loaded and not heavy & {name.split(".")[0] for name in loaded}


def test_public_names_are_there() -> None:
    for name in outpace.__all__:
        assert getattr(outpace, name).__name__ == name
        assert name in dir(outpace)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = outpace.nothing


def test_includes_of_native_only_go_down() -> None:
    rooms = ["kernels", "engine", "model", "native"]
    sources = sorted((ROOT.parents[1] / "native").rglob("*.?pp"))
    assert {path.parent.name for path in sources} == set(rooms)
    for path in sources:
        for name in re.findall(r'#include "(\w+)/', path.read_text()):
            assert rooms.index(name) <= rooms.index(path.parent.name), f"{path} must not include {name}"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_time_is_measured_in_few_rooms(module: Path) -> None:
    """The loop, the room that prices and the bench have clocks; others ask `pricing.clock`."""
    text = module.read_text()
    assert layer_of_module(module) in ("decode", "pricing", "bench") or not re.search(
        r"\b(perf_counter|monotonic)\b *\(|import +(perf_counter|monotonic)", text
    )
