"""An app over the tiny model, which the tests of a process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outpace.models.text import load
from outpace.server.run import open_house
from outpace.server.serving import Settings
from tests.serve.asking import Server
from tests.server.living import NAME, tiny_gguf


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        opened = open_house([str(tiny_gguf(folder))], [NAME], lambda path: load(path, threads=1), Settings())
    made = Server.of(*opened)
    yield made
    made.house.close()
