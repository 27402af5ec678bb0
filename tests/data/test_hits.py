"""Tests TrackML files and hit graphs. The tests write files in the published format."""

from __future__ import annotations

import bz2
import gzip
import math
from pathlib import Path

import pytest
import torch

import equikernels as ek
from equikernels.data import (
    LAYER_PAIRS,
    PIXEL_LAYERS,
    HitGraph,
    Hits,
    hit_graph,
    load_sample_hit_graphs,
    load_trackml,
)

HITS = "hit_id,x,y,z,volume_id,layer_id,module_id"
TRUTH = "hit_id,particle_id,tx,ty,tz,tpx,tpy,tpz,weight"
PARTICLES = "particle_id,particle_type,vx,vy,vz,px,py,pz,q,nhits"
SMALL = {
    "hits": [HITS, "7,32.5,0.25,-10,8,2,5", "9,72.5,0.5,-20,8,4,6", "8,-1e1,3,4.5,13,2,1"],
    "truth": [TRUTH, "8,0,0,0,0,0,0,0,0", "7,481886878115561473,1,1,1,1,1,1,0.5", "9,5,1,1,1,1,1,1,0.5"],
    "particles": [PARTICLES, "5,211,0,0,0,3,4,1,1,7", "481886878115561473,-211,0,0,0,0.6,-0.8,2,-1,9"],
}


def write(folder: Path, files: dict[str, list[str]], zipped: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    for kind, lines in files.items():
        text = "\n".join(lines) + "\n"
        name = f"event000000001-{kind}.csv"
        if zipped:
            compress = {"gz": gzip.compress, "bz2": bz2.compress}[zipped]
            (folder / f"{name}.{zipped}").write_bytes(compress(text.encode()))
        else:
            (folder / name).write_text(text)
    return folder / "event000000001"


def sample_as_hits(graph: HitGraph) -> Hits:
    r, phi, z = graph.x.double().unbind(1)
    r, phi, z = 1000 * r, math.pi * phi, 1000 * z
    xyz = torch.stack([r * phi.cos(), r * phi.sin(), z], dim=1)
    volume, layer = torch.tensor(PIXEL_LAYERS)[graph.layer].unbind(1)
    return Hits(xyz, volume, layer, torch.arange(len(r)), graph.particle_id, graph.pt.double())


@pytest.mark.parametrize("zipped", ["", "gz", "bz2"])
def test_reads_an_event(tmp_path: Path, zipped: str) -> None:
    hits = load_trackml(write(tmp_path, SMALL, zipped))
    assert len(hits) == 3
    assert hits.xyz.tolist() == [[32.5, 0.25, -10], [72.5, 0.5, -20], [-10, 3, 4.5]]
    assert hits.xyz.dtype == torch.float64
    assert hits.hit_id.tolist() == [7, 9, 8]
    assert hits.particle_id.tolist() == [481886878115561473, 5, 0]  # not through a float
    assert hits.pt.tolist() == pytest.approx([1, 5, 0])
    assert hits.volume.tolist() == [8, 8, 13]
    assert hits.layer.tolist() == [2, 4, 2]


def test_columns_in_any_order_and_empty_lines(tmp_path: Path) -> None:
    def turned(lines: list[str]) -> list[str]:
        return [",".join(['"extra"' if k == 0 else "0", *reversed(line.split(","))]) for k, line in enumerate(lines)]

    expected = load_trackml(write(tmp_path, SMALL))
    files = {kind: turned(lines) for kind, lines in SMALL.items()}
    files["hits"].insert(2, "")
    hits = load_trackml(write(tmp_path, files))
    assert torch.equal(hits.xyz, expected.xyz)
    assert torch.equal(hits.particle_id, expected.particle_id)


def test_no_hits(tmp_path: Path) -> None:
    hits = load_trackml(write(tmp_path, {kind: lines[:1] for kind, lines in SMALL.items()}))
    assert len(hits) == 0
    graph = hit_graph(hits)
    assert graph.graph.num_nodes == graph.graph.num_edges == 0
    assert graph.edge_attr.shape == (0, 4)


BROKEN = [
    ("hits", 0, f"{HITS},x", r"hits.csv: expected every column once, got x again"),
    ("hits", 0, HITS.replace("y,", ""), r"hits.csv: expected columns hit_id, x, y, .*, got no y$"),
    ("hits", 2, "9,nan,0.5,-20,8,4,6", r"hits.csv: column x, line 3: expected a finite number, got nan"),
    ("hits", 2, "9,1,0.5,inf,8,4,6", r"hits.csv: column z, line 3: expected a finite number, got inf"),
    ("hits", 3, "8,1,abc,1,8,4,6", r"hits.csv: column y, line 4: expected a number, got 'abc'"),
    ("hits", 3, "8,1,,1,8,4,6", r"hits.csv: column y, line 4: expected a number, got ''"),
    ("hits", 3, "8,1,2", r"hits.csv: column z, line 4: expected a value, got a line of 3 values"),
    ("hits", 3, "8.5,1,2,3,8,4,6", r"hits.csv: column hit_id, line 4: expected an integer, got '8.5'"),
    (
        "hits",
        3,
        "7,1,2,3,8,4,6",
        r"hits.csv: column hit_id, line 4: expected every id once, .* 7 again, first in line 2",
    ),
    ("hits", 3, "4,1,2,3,8,4,6", r"hits.csv: column hit_id, line 4: expected a hit with a row in .*truth.csv, got 4"),
    ("truth", 1, "7,0,0,0,0,0,0,0,0", r"truth.csv: column hit_id, line 3: expected every id once, got 7 again"),
    ("truth", 3, "9,6,1,1,1,1,1,1,1", r"truth.csv: column particle_id, line 4: expected 0 or a particle of .*, got 6"),
    ("truth", 3, "9,99999999999999999999,1", r"particle_id, line 4: expected an integer of 64 bits"),
    (
        "particles",
        2,
        "5,1,1,1,1,1,1,1,1,1",
        r"particles.csv: column particle_id, line 3: expected every id once",
    ),
]


@pytest.mark.parametrize(("kind", "line", "text", "message"), BROKEN, ids=[f"{b[0]} {b[2]}" for b in BROKEN])
def test_errors_name_file_column_and_line(tmp_path: Path, kind: str, line: int, text: str, message: str) -> None:
    files = {name: list(lines) for name, lines in SMALL.items()}
    files[kind][line] = text
    with pytest.raises(ValueError, match=rf"^load_trackml: event000000001-.*{message}"):
        load_trackml(write(tmp_path, files))


def test_a_line_is_counted_as_an_editor_does(tmp_path: Path) -> None:
    files = {**SMALL, "hits": [*SMALL["hits"][:2], "", "", "9,nan,0.5,-20,8,4,6", SMALL["hits"][3]]}
    with pytest.raises(ValueError, match="column x, line 5"):
        load_trackml(write(tmp_path, files))


@pytest.mark.parametrize("missing", ["hits", "truth", "particles"])
def test_a_missing_file(tmp_path: Path, missing: str) -> None:
    write(tmp_path, {kind: lines for kind, lines in SMALL.items() if kind != missing})
    with pytest.raises(
        FileNotFoundError, match=rf"expected a file event000000001-{missing}.csv \(or .csv.gz, .csv.bz2\) in "
    ):
        load_trackml(tmp_path / "event000000001")


def test_an_event_without_truth(tmp_path: Path) -> None:
    expected = load_trackml(write(tmp_path / "a", SMALL))
    hits = load_trackml(write(tmp_path / "b", {"hits": SMALL["hits"]}))
    assert torch.equal(hits.xyz, expected.xyz)
    assert not hits.particle_id.any()
    assert not hits.pt.any()
    assert hit_graph(hits, pt_min=0).graph.num_nodes == 2  # the third is in another volume


@pytest.mark.parametrize("zipped", ["gz", "bz2"])
def test_truncated_files(tmp_path: Path, zipped: str) -> None:
    prefix = write(tmp_path, SMALL, zipped)
    path = tmp_path / f"{prefix.name}-hits.csv.{zipped}"
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(ValueError, match=rf"load_trackml: {path.name}: expected a complete file"):
        load_trackml(prefix)


def test_samples() -> None:
    graphs = load_sample_hit_graphs()
    assert len(graphs) == 5
    for g in graphs:
        sender, receiver = g.graph.edge_index
        assert 3000 < g.graph.num_nodes < 4000 < g.graph.num_edges + 1000
        assert all(
            pair in LAYER_PAIRS for pair in zip(g.layer[sender].tolist(), g.layer[receiver].tolist(), strict=True)
        )
        assert torch.equal(g.y, g.particle_id[sender] == g.particle_id[receiver])
        assert g.pt.min() >= 1.5
        assert g.particle_id.min() > 0
        step = g.x[receiver] - g.x[sender]
        torch.testing.assert_close(g.edge_attr[:, [0, 2]], step[:, [0, 2]], rtol=0, atol=1e-6)
        torch.testing.assert_close(g.cartesian[:, :2].norm(dim=1), g.x[:, 0])


@pytest.mark.parametrize("k", range(5))
def test_the_builder_makes_the_samples(k: int) -> None:
    sample = load_sample_hit_graphs()[k]
    made = hit_graph(sample_as_hits(sample))
    assert torch.equal(made.graph.edge_index, sample.graph.edge_index)
    assert torch.equal(made.y, sample.y)
    assert torch.equal(made.layer, sample.layer)
    torch.testing.assert_close(made.x, sample.x)
    torch.testing.assert_close(made.edge_attr, sample.edge_attr, rtol=1e-5, atol=1e-5)


def test_from_files_to_a_network(tmp_path: Path) -> None:
    """A whole event through its files, among noise, soft particles and hits outside the pixel layers."""
    sample = load_sample_hit_graphs()[0]
    hits = sample_as_hits(sample)
    rows = [
        f"{k},{x!r},{y!r},{z!r},{v},{layer},1"
        for k, ((x, y, z), v, layer) in enumerate(
            zip(hits.xyz.tolist(), hits.volume.tolist(), hits.layer.tolist(), strict=True)
        )
    ]
    n = len(rows)
    others = [f"{n},1,2,3,8,2,1", f"{n + 1},1,2,3,13,4,1", f"{n + 2},30,1,2,8,2,1"]  # noise, outside, soft
    truth = [f"{k},{p},0,0,0,0,0,0,0" for k, p in enumerate(hits.particle_id.tolist())]
    truth += [f"{n},0,0,0,0,0,0,0,0", f"{n + 1},1,0,0,0,0,0,0,0", f"{n + 2},999999,0,0,0,0,0,0,0"]
    momenta = dict(zip(hits.particle_id.tolist(), hits.pt.tolist(), strict=True)) | {1: 50.0, 999999: 1.0}
    files = {
        "hits": [HITS, *rows, *others],
        "truth": [TRUTH, *truth],
        "particles": [PARTICLES, *(f"{p},211,0,0,0,{-pt!r},0,1,1,5" for p, pt in momenta.items())],
    }
    read = load_trackml(write(tmp_path, files))
    assert len(read) == n + 3
    graph = hit_graph(read)
    assert torch.equal(graph.graph.edge_index, sample.graph.edge_index)
    assert torch.equal(graph.particle_id, sample.particle_id)
    assert hit_graph(read, pt_min=0.0).graph.num_nodes == n + 2
    model = ek.models.InteractionNetwork(8)
    assert model(graph.x, graph.graph, graph.edge_attr).numel() == graph.graph.num_edges


@pytest.mark.parametrize("phi_slope_max", [6e-4, 6e-3, 10.0])
def test_against_every_pair(phi_slope_max: float) -> None:
    """Few hits, all pairs, one by one; also if the window in azimuth is a full turn."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.randint(0, 18, (150,), generator=generator)
    r = 30 + 150 * torch.rand(150, dtype=torch.float64, generator=generator)
    phi = 2 * math.pi * torch.rand(150, dtype=torch.float64, generator=generator)
    z = 2000 * torch.rand(150, dtype=torch.float64, generator=generator) - 1000
    xyz = torch.stack([r * phi.cos(), r * phi.sin(), z], dim=1)
    volume, number = torch.tensor(PIXEL_LAYERS)[layer].unbind(1)
    hits = Hits(xyz, volume, number, torch.arange(150), torch.ones(150, dtype=torch.int64), torch.ones(150))
    graph = hit_graph(hits, pt_min=0.0, phi_slope_max=phi_slope_max, z0_max=200.0)
    expected = []
    for inner, outer in LAYER_PAIRS:
        for i in (layer == inner).nonzero().flatten().tolist():
            for j in (layer == outer).nonzero().flatten().tolist():
                dr, dz = (r[j] - r[i]).item(), (z[j] - z[i]).item()
                z0 = z[i].item() - r[i].item() * dz / dr
                good = abs(math.remainder((phi[j] - phi[i]).item(), 2 * math.pi) / dr) < phi_slope_max and abs(z0) < 200
                if good and inner < 3 and outer > 3:
                    good = abs(z0 + (72.0, 116.0, 172.0)[inner] * dz / dr) >= 491
                if good:
                    expected.append((i, j))
    assert graph.graph.edge_index.t().tolist() == [list(pair) for pair in expected]
    assert graph.y.all()


def test_bad_cuts() -> None:
    hits = sample_as_hits(load_sample_hit_graphs()[0])
    with pytest.raises(ValueError, match="hit_graph: phi_slope_max: expected a number > 0, got nan"):
        hit_graph(hits, phi_slope_max=math.nan)
    with pytest.raises(ValueError, match="hit_graph: z0_max: expected a number > 0, got 0"):
        hit_graph(hits, z0_max=0)
    hits.xyz[3, 1] = math.inf
    with pytest.raises(ValueError, match=r"hit_graph: hits: expected finite positions, got \[.*inf.*\] in row 3"):
        hit_graph(hits)
    hits.xyz[3, 1] = 0
    for pairs in ([(0, 18)], [(-1, 2)], [(0, 1, 2)], [(0.5, 1)], [(3,)]):
        with pytest.raises(ValueError, match="hit_graph: layer_pairs: expected pairs of layers from 0 to 17, got "):
            hit_graph(hits, layer_pairs=pairs)
    with pytest.raises(ValueError, match="hit_graph: pt_min: expected a number, got nan"):
        hit_graph(hits, pt_min=math.nan)


def few_hits(**fields: object) -> Hits:
    """One particle through the four barrel layers, and a hit in the strips."""
    made = {
        "xyz": torch.tensor([[32.0, 0, 1], [72, 0, 2], [116, 0, 3], [172, 0, 4], [600, 0, 5]], dtype=torch.float64),
        "volume": torch.tensor([8, 8, 8, 8, 13]),
        "layer": torch.tensor([2, 4, 6, 8, 3]),
        "hit_id": torch.arange(5),
        "particle_id": torch.full((5,), 7),
        "pt": torch.full((5,), 2.0, dtype=torch.float64),
    }
    return Hits(**{**made, **fields})


def test_hits_of_another_detector() -> None:
    assert hit_graph(few_hits()).graph.edge_index.tolist() == [[0, 1, 2], [1, 2, 3]]
    other = "hits: expected hits in the volumes 7, 8, 9 of the TrackML detector, got volumes "
    with pytest.raises(ValueError, match=rf"hit_graph: {other}\[16, 17, 18\]"):
        hit_graph(few_hits(volume=torch.tensor([16, 17, 18, 17, 16])))
    with pytest.raises(ValueError, match=rf"hit_graph: {other}\[13\]"):  # nothing but strips
        hit_graph(few_hits()[torch.tensor([4])])
    with pytest.raises(
        ValueError, match=r"expected layers of the TrackML detector .*, got layer 3 of volume 8 in row 1"
    ):
        hit_graph(few_hits(layer=torch.tensor([2, 3, 6, 8, 3])))
    assert hit_graph(few_hits()[:0]).graph.num_nodes == 0


def test_hits_without_truth() -> None:
    noise = few_hits(particle_id=torch.zeros(5, dtype=torch.int64), pt=torch.zeros(5))
    with pytest.raises(ValueError, match=r"hit_graph: pt_min: expected 0 for hits without truth .*, got 1.5"):
        hit_graph(noise)
    graph = hit_graph(noise, pt_min=0)
    assert graph.graph.num_edges == 3
    assert not graph.y.any()
    assert hit_graph(few_hits(), pt_min=5).graph.num_nodes == 0  # all particles are soft


@pytest.mark.parametrize("z", [0.0, 5.0, -5.0])
@pytest.mark.parametrize("r", [0.0, 5e-324])
def test_hits_on_the_beam_axis(z: float, r: float) -> None:
    hits = few_hits()
    hits.xyz[2] = torch.tensor([r, 0, z], dtype=torch.float64)
    if r == 0 or z != 0:
        with pytest.raises(
            ValueError, match=r"hit_graph: hits: expected positions off the beam axis, got \[.*\] in row 2"
        ):
            hit_graph(hits)
    hits.volume[2], hits.layer[2] = 13, 2  # dropped in any case
    assert hit_graph(hits).x.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"xyz": torch.zeros(5, 2)}, ValueError, r"hits.xyz: expected shape \[n, 3\]"),
        ({"xyz": torch.ones(5, 3).long()}, TypeError, "hits.xyz: expected dtype float32 or float64"),
        ({"volume": torch.ones(4).long()}, ValueError, r"hits.volume: expected shape \[5\], got \[4\]"),
        ({"layer": torch.ones(5)}, TypeError, "hits.layer: expected dtype int64"),
        ({"particle_id": torch.ones(5)}, TypeError, "hits.particle_id: expected dtype int64"),
        ({"pt": torch.ones(3)}, ValueError, r"hits.pt: expected shape \[5\], got \[3\]"),
        ({"pt": torch.tensor([1, 1, math.nan, 1, 1])}, ValueError, "hits: expected finite momenta, got nan in row 2"),
    ],
)
def test_fields_that_are_none(fields: dict[str, torch.Tensor], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"hit_graph: {message}"):
        hit_graph(few_hits(**fields))


def test_files_with_a_byte_order_mark(tmp_path: Path) -> None:
    expected = load_trackml(write(tmp_path, SMALL))
    for zipped in ("", "gz", "bz2"):
        marked = {kind: ["\ufeff" + lines[0], *lines[1:]] for kind, lines in SMALL.items()}
        assert torch.equal(load_trackml(write(tmp_path, marked, zipped)).xyz, expected.xyz)
