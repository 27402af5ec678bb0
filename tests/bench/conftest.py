"""Events that the tests of studies share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import equikernels as ek

if TYPE_CHECKING:
    from equikernels.bench.studies import events


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> events.Events:
    from equikernels.bench.studies import events  # needs the extras of studies

    jets = ek.data.load_sample_jets()
    paths = events.write(tmp_path_factory.mktemp("few"), "jets", [jets[:60], jets[60:120], jets[120:220]])
    return events.Events(*map(str, paths), "few jets")
