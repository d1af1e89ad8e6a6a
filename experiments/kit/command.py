"""The one command of an experiment: how large, where, on what. A step that is done is left alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from experiments.kit.results import check_device
from outpace.core.errors import OutpaceError
from outpace.train.allocator import keep_freed_memory

Scale = TypeVar("Scale")


@dataclass(frozen=True, slots=True)
class Job(Generic[Scale]):
    """What a command line asks for.

    folder   of the scale, below `work`: all that is made, but for what every scale reads.
    command  as records have it. options: what the experiment has added.
    """

    work: Path
    folder: Path
    scale: Scale
    device: str
    seed: int
    command: str
    options: argparse.Namespace


class Command(Generic[Scale]):
    """`python -m MODULE --scale NAME ...`; `add` is argparse's, for options of the experiment's own."""

    def __init__(self, about: str | None, module: str, scales: Mapping[str, Scale], work: Path) -> None:
        self._module, self._scales = module, scales
        self._parser = parser_of(about, scales, work, scale="hours")
        self.add = self._parser.add_argument
        self.add("--threads", type=int, help="of torch; its own choice if not given")
        self.add("--device", default="cpu", help="of torch")
        self.add("--seed", type=int, default=0)

    def run(self, steps: Callable[[Job[Scale]], None], arguments: list[str] | None = None) -> None:
        """All steps; an error that is the user's ends in one line."""
        args = self._parser.parse_args(arguments)
        keep_freed_memory()
        try:
            scale = scale_of(self._scales, args.scale)
            check_device(args.device)
            if args.threads is not None:
                if args.threads < 1:
                    raise OutpaceError(f"--threads is {args.threads}, accepted are whole numbers >= 1")
                torch.set_num_threads(args.threads)
            folder, command = args.work / args.scale, self._said(args)
            steps(Job(args.work, folder, scale, args.device, args.seed, command, args))
        except (OutpaceError, OSError) as error:
            raise SystemExit("error: " + " ".join(str(error).split())) from error

    def _said(self, args: argparse.Namespace) -> str:
        """The command, with all that is not as it would be anyway; no paths."""
        given = {
            name: value
            for name, value in vars(args).items()
            if name == "scale" or (value != self._parser.get_default(name) and not isinstance(value, Path))
        }
        return f"python -m {self._module}" + "".join(f" --{name} {value}" for name, value in given.items())


def parser_of(
    about: str | None, scales: Mapping[str, Any], work: Path, *, scale: str
) -> argparse.ArgumentParser:
    """A parser with --scale and --work. scale: the one that is meant if none is said."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default=scale, help=f"{', '.join(scales)} ({scale}); see scales.py")
    parser.add_argument("--work", type=Path, default=work, help="the folder for all that is made")
    return parser


def scale_of(scales: Mapping[str, Scale], name: str) -> Scale:
    """The scale of a name."""
    if name not in scales:
        raise OutpaceError(f"there is no scale {name!r}, accepted are {', '.join(scales)}")
    return scales[name]
