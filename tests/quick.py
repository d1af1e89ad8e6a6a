"""`make quick`: the tests of what has changed, and a sample of the contract suite.

A module of src/ is tested by the files of its name in the mirror, tests/; where there are none, by all of the
folder. What a test imports from tests/ is tested by those that import it. Experiments, damaged files, real
models and tests that take long are left to `make test`.

    python -m tests.quick --base main
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALWAYS = ("tests/test_layers.py", "tests/test_size.py", "tests/test_project.py")
DOCS = ("tests/test_docs.py", "tests/test_site.py")
NATIVE = ("tests/native", "tests/targets/test_native*.py")
CONTRACT = "tests/contract"
PARTS = {
    "drafters": ("test_drafters.py", "test_options.py"),
    "rules": ("test_drafters.py", "test_rules.py"),
    "trees": ("test_drafters.py", "test_trees.py"),
    **dict.fromkeys(("bench", "cli", "diffusion", "models", "serve", "server", "train"), ()),
}
"""Files of the contract suite for a folder of src/outpace; of all others, `COMMON`."""
COMMON = ("test_drafters.py", "test_targets.py")
LEFT_OUT = ("tests/experiments", "tests/fuzz", CONTRACT)
# No factor in common with how many targets, samplings and rules there are: all of them come up.
EVERY = 29


def main() -> int:
    parser = argparse.ArgumentParser(description="tests of what has changed")
    parser.add_argument(
        "--base", help="what it is compared with [HEAD; the commit before it if all is committed]"
    )
    parser.add_argument("--jobs", default="auto", help="test processes")
    args = parser.parse_args()
    changed = changed_since(args.base or "HEAD") or changed_since(args.base or "HEAD~1")
    chosen = chosen_for(changed)
    print(
        *(f"changed: {path}" for path in changed),
        *(f"tested by: {path}" for path in chosen),
        sep="\n",
        flush=True,
    )
    options = [
        "--quiet",
        "-m",
        "not (real or slow or gpu)",
        f"--numprocesses={args.jobs}",
        "--dist=worksteal",
    ]
    if any(path.startswith(CONTRACT) for path in chosen):
        options.append(f"--every={EVERY}")
    return pytest.main([*options, *chosen])


def changed_since(base: str) -> list[str]:
    """Files that differ from a commit, those that git has not been told of among them."""
    differ = _git("diff", "--name-only", "--no-renames", base)
    return sorted({*differ, *_git("ls-files", "--others", "--exclude-standard")})


def chosen_for(changed: Iterable[str], root: Path = ROOT) -> list[str]:
    """Files and folders below tests/ for files of the repository, as paths from its root."""
    found = {path for path in ALWAYS if (root / path).exists()}
    for path in changed:
        top = path.partition("/")[0]
        if top in ("docs", "mkdocs.yml") or path.endswith(".md"):
            found.update(DOCS)
        elif top == "native":
            found.update(test for pattern in NATIVE for test in _glob(root, pattern))
        elif top == "deploy":
            found.add("tests/test_deploy.py")
        elif top == "benchmarks":
            found.add("tests/benchmarks")
        elif path.startswith("src/outpace/"):
            found.update(_mirror(root, path))
        elif top == "tests":
            found.update(_of_test(root, path))
        if top == "native" or path.startswith("src/outpace/"):
            parts = PARTS.get(path.split("/")[2], COMMON) if top == "src" else COMMON
            found.update(f"{CONTRACT}/{part}" for part in parts)
        elif path.startswith(f"{CONTRACT}/"):
            found.add(CONTRACT)
    inside = {path for path in found if any(path.startswith(f"{other}/") for other in found)}
    return sorted(path for path in found - inside if (root / path).exists())


def _mirror(root: Path, path: str) -> list[str]:
    """The tests of a module of src/outpace."""
    module = Path(path).relative_to("src/outpace")
    folder = Path("tests") / module.parent
    named = _glob(root, f"{folder}/test_{module.stem}*.py")
    return named or ([str(folder)] if module.parent.name else [])


def _of_test(root: Path, path: str) -> list[str]:
    """A file of tests, or those that import it."""
    if Path(path).name.startswith("test_"):
        return [path] if not path.startswith(LEFT_OUT) else []
    name = path.removesuffix(".py").replace("/", ".")
    files = [test for test in _glob(root, "tests/**/test_*.py") if not test.startswith(LEFT_OUT)]
    return [test for test in files if f"from {name} " in (root / test).read_text()]


def _glob(root: Path, pattern: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in sorted(root.glob(pattern))]


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main())
