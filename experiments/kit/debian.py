"""Binary packages of the Debian suite that this machine's apt knows, into a folder; nothing is installed.

The package lists live in the folder too, so any user can run it.
"""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from outpace.core.errors import OutpaceError


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
