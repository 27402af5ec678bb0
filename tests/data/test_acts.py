"""Tests the reader of ACTS's CSV files, in both numberings of particles."""

from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from equikernels.data import load_acts

BARCODE = "particle_id_pv,particle_id_sv,particle_id_part,particle_id_gen,particle_id_subpart"
PLACE = "geometry_id,tx,ty,tz,tt,tpx,tpy,tpz,te,deltapx,deltapy,deltapz,deltae,index"
ROWS = [(8, 2, "32.5,0.25,-10"), (200, 4095, "72.5,0.5,-20"), (8, 4, "-10,3,4.5")]  # volume, layer, position


def hits(ids: list[str], start: str) -> list[str]:
    lines = [f"{start},{PLACE}"]
    for particle, (volume, layer, position) in zip(ids, ROWS, strict=True):
        lines.append(f"{particle},{volume << 56 | layer << 36 | 5 << 8},{position},0.1,1,1,1,2,0,0,0,0,0")
    return lines


def write(folder: Path, name: str, lines: list[str]) -> None:
    (folder / f"event000000000-{name}.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", ["particles_simulated", "particles_initial", "particles"])
@pytest.mark.parametrize("columns", [1, 5])
def test_reads_an_event(tmp_path: Path, kind: str, columns: int) -> None:
    first, second = 1 << 52 | 7 << 24, 4095 << 52 | 3 << 40 | 9 << 24 | 2 << 16 | 6
    one, two = (str(first), str(second)) if columns == 1 else ("1,0,7,0,0", "4095,3,9,2,6")
    start = "particle_id" if columns == 1 else BARCODE
    write(tmp_path, "hits", hits([one, two, one], start))
    write(tmp_path, kind, [f"{start},particle_type,px,py,pz", f"{two},211,3,4,1", f"{one},-13,0.6,0.8,9"])
    got = load_acts(tmp_path / "event000000000")
    assert got.xyz.tolist() == [[32.5, 0.25, -10], [72.5, 0.5, -20], [-10, 3, 4.5]]
    assert got.volume.tolist() == [8, 200, 8]
    assert got.layer.tolist() == [2, 4095, 4]
    assert got.hit_id.tolist() == [0, 1, 2]
    assert got.pt.tolist() == pytest.approx([1, 5, 1])
    assert got.particle_id.tolist() == [first, second - 2**64, first]  # the same 64 bits


def test_errors(tmp_path: Path) -> None:
    prefix = tmp_path / "event000000000"
    write(tmp_path, "hits", hits(["5", "6", "5"], "particle_id"))
    with pytest.raises(
        FileNotFoundError, match=r"load_acts: prefix: .*-particles_simulated.csv or .*-particles.csv \("
    ):
        load_acts(prefix)
    write(tmp_path, "particles", ["particle_id,px,py", "5,1,1"])
    with pytest.raises(ValueError, match=r"load_acts: .*hits.csv: column particle_id, line 3: .*particles.csv, got 6"):
        load_acts(prefix)
    write(tmp_path, "particles", ["particle_id,px,py", "5,1,1", "6,x,1"])
    with pytest.raises(ValueError, match=r"load_acts: .*particles.csv: column px, line 3: expected a number, got 'x'"):
        load_acts(prefix)
    write(tmp_path, "hits", hits(["1,0,5,0,0", "1,0,70000,0,0", "1,0,5,0,0"], BARCODE))
    with pytest.raises(ValueError, match=r"column particle_id_part, line 3: expected a number of 16 bits, got 70000"):
        load_acts(prefix)
    write(tmp_path, "hits", hits(["5", "-6", "5"], "particle_id"))
    with pytest.raises(ValueError, match=r"column particle_id, line 3: expected an integer of 64 bits, got -6"):
        load_acts(prefix)


def test_compressed(tmp_path: Path) -> None:
    write(tmp_path, "particles", ["particle_id,px,py", "5,3,4"])
    text = "\n".join(hits(["5", "5", "5"], "particle_id"))
    (tmp_path / "event000000000-hits.csv.bz2").write_bytes(bz2.compress(text.encode()))
    assert load_acts(tmp_path / "event000000000").pt.tolist() == [5, 5, 5]
