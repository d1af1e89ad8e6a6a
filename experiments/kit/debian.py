"""Binary packages of the Debian suite that this machine's apt knows, into a folder; nothing is installed.

The package lists live in the folder too, so any user can run it.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from outpace.core.errors import OutpaceError

Content = dict[str, Any]  # of a package: what `about` names, and what a corpus takes from its files
Files = Iterator[tuple[str, bytes]]  # path from the root, content


@dataclass(frozen=True, slots=True)
class Package:
    """A package in a folder: its name, its version, the .deb and the checksum that apt has for it."""

    name: str
    version: str
    path: Path
    checksum: str

    @contextmanager
    def members(self) -> Iterator[tarfile.TarFile]:
        """The package's files as a stream of tar members, read in order."""
        command = ["dpkg-deb", "--fsys-tarfile", str(self.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking:
            assert unpacking.stdout is not None
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
                yield archive
            unpacking.stdout.read()
        if unpacking.returncode:
            raise OutpaceError(f"{self.path.name} cannot be read; delete it and start again")


class Apt:
    """apt-get with its lists and files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._debs = self.folder / "archives"
        for needed in (self.folder / "lists/partial", self._debs / "partial"):
            needed.mkdir(parents=True, exist_ok=True)
        self._options = [
            f"--option=Dir::State::Lists={self.folder / 'lists'}",
            f"--option=Dir::Cache={self.folder}",
            # Images of containers switch this off, and every call takes seconds.
            "--option=Dir::Cache::pkgcache=pkgcache.bin",
            "--option=APT::Sandbox::User=",
        ]
        if not any((self.folder / "lists").glob("*Packages*")):
            self._run("update", cwd=self.folder)

    def fetch(self, name: str) -> Package:
        """A package of the suite. A .deb that is there already, whole, is not downloaded again."""
        _, file, size, checksum = self._run("download", "--print-uris", name, cwd=self.folder).split()
        path = self._debs / file
        if not path.exists() or path.stat().st_size != int(size):
            self._run("download", name, cwd=self._debs)
        version = file.split("_")[1].replace("%3a", ":")
        return Package(name, version, path, checksum)

    def _run(self, *arguments: str, cwd: Path) -> str:
        command = ["apt-get", "--quiet=2", *self._options, *arguments]
        try:
            done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise OutpaceError("apt-get is missing, accepted is a machine with Debian's apt") from error
        if done.returncode:
            reason = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["E: it failed"]
            raise OutpaceError(f"apt-get {' '.join(arguments)}: {reason[0][3:]}")
        return done.stdout


def gather(
    work: Path, names: Sequence[str], *, is_wanted: Callable[[str], bool], read: Callable[[Files], Content]
) -> Iterator[Content]:
    """What `read` takes from the wanted files of each package; kept as `packages/NAME.json`.

    A run that was killed goes on after the last package that it has kept.
    """
    folder = work / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    apt = None
    with Progress() as progress:
        task = progress.add_task("packages", total=len(names))
        for name in names:
            progress.update(task, description=f"{name:28.28}")
            path = folder / f"{name}.json"
            if not path.exists():
                apt = apt or Apt(work / "debian")
                part = path.with_suffix(".part")
                part.write_text(json.dumps(_content(apt.fetch(name), is_wanted, read)), encoding="utf-8")
                part.replace(path)
            yield json.loads(path.read_text(encoding="utf-8"))
            progress.advance(task)


def about(content: Content) -> dict[str, str]:
    """What a list of sources says of a package."""
    return {field: content[field] for field in ("package", "version", "licence", "checksum")}


def _content(package: Package, is_wanted: Callable[[str], bool], read: Callable[[Files], Content]) -> Content:
    licence = "that of its source package"

    def files() -> Files:
        nonlocal licence
        with package.members() as archive:
            for member in archive:
                path = "/" + member.name.removeprefix("./")
                is_copyright = path == f"/usr/share/doc/{package.name}/copyright"
                if not member.isfile() or not (is_copyright or is_wanted(path)):
                    continue
                file = archive.extractfile(member)
                assert file is not None
                if is_copyright:
                    licence = short_licence(file.read().decode("utf-8", "replace"))
                else:
                    yield path, file.read()

    found = read(files())
    return {
        "package": package.name,
        "version": package.version,
        "licence": licence,
        "checksum": package.checksum,
        **found,
    }


def short_licence(text: str) -> str:
    """The first licence that a Debian copyright file names, else the common ones that it points at."""
    named = re.search(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE)
    if named:
        return named[1].strip()
    common = sorted(set(re.findall(r"common-licenses/([\w.-]*\w)", text)))
    return " ".join(common) or "own, see its copyright file"
