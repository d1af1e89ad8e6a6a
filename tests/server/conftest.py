"""One server of the tiny model, which the tests of a process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.living import Living, living


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    with living(tmp_path_factory.mktemp("server")) as made:
        yield made
