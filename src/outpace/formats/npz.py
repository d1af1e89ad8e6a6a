"""Files of numpy arrays by name, of which a damaged one is known as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file. OSError where it cannot be read, ValueError where it holds none."""
    # Opened here: np.load leaves a damaged file open.
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except Exception as error:  # zip, deflate and numpy have many kinds
            raise ValueError(f"{path} holds no arrays by name ({type(error).__name__})") from error
