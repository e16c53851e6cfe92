from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.backend import Backend


@pytest.fixture
def backend() -> Iterator[Backend]:
    server = Backend()
    yield server
    server.close()
