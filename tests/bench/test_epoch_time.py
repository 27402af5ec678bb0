"""Tests the tool that times an epoch: both sides get the same network, and its result reads as the others do."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from equikernels.train.tasks import build

from ..support import ROOT
from ..support.bench_suite import machine, module


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("epoch_time", ROOT / "tools" / "epoch_time.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("name", ["lorentznet", "lorentznet_small", "pelican", "pelican_small", "vecnet"])
def test_both_sides_get_the_same_network(name: str) -> None:
    config = tool().config_of(name, Path("jets.npz"))
    assert config.data.train == "jets.npz"
    ours, theirs = (build(config.network, config.options, side) for side in tool().SIDES)
    theirs.load_state_dict(ours.state_dict())


def test_a_result_reads_as_the_others_do(tmp_path: Path) -> None:
    report = {
        "share_of_waiting_for_data": 0.01, "seconds_in_steps": 9.0, "seconds_of_reading": 0.5, "events_read": 20,
        "validation": {"loss": 0.3},
    }  # fmt: skip
    row = tool().row_of(
        "an epoch", {"equikernels": {"process": 12.5, **report}, "published": {"process": 100.0, **report}}
    )
    records = module("records")
    (tmp_path / "epoch.json").write_text(records.text({**machine.machine("epoch", 2), "rows": [row], "left_out": []}))
    document = records.documents(tmp_path)["epoch"]
    assert records.find("epoch", document, "an epoch")["ratio"] == 8.0
    assert records.table(document).endswith("| an epoch | 100000 ms (published) | 12500 ms | **8x** | - |")
    assert json.loads((tmp_path / "epoch.json").read_text())["rows"][0]["events_read"] == [20, 20]
