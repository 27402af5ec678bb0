"""Tests programs for PyTorch without the network's code: every network, at any size, in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.deploy.inputs import ENDS, IMAGES, NODES, OFFSETS, Input, inputs_of
from equikernels.deploy.package import Program, compiled
from equikernels.export import TAKES_ANY_SIZE

from ..support.networks import short_resnext
from ..support.pelican import small

needs_213 = pytest.mark.skipif(not TAKES_ANY_SIZE, reason="packaging needs PyTorch 2.13")
SIZES = [(9, 4, 1), (7,), (1,), (1, 1), (6, 0), (0,), ()]  # of events; the example has two

LOAD = """
import sys, torch, equikernels
package, given, found = sys.argv[1:]
run = equikernels.deploy.load(package)
with torch.inference_mode():
    torch.save([run(*tensors) for tensors in torch.load(given)], found)
"""


class All(nn.Module):
    """Networks side by side: one program is compiled in a fraction of the time of many."""

    def __init__(self, programs: list[Program], inputs: list[list[Input]]) -> None:
        super().__init__()
        self.programs = nn.ModuleList(programs)
        self.ends = [0, *accumulate(len(each) for each in inputs)]

    def forward(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        """The results of each."""
        results = []
        for program, (begin, end) in zip(self.programs, pairwise(self.ends), strict=True):
            out = program(*tensors[begin:end])
            results.append(out if isinstance(out, tuple) else (out,))
        return results


def networks() -> list[tuple[nn.Module, torch.dtype | None, int | None]]:
    """(network, dtype of coordinates, slots); few layers, since compiling takes as long as there are calls"""
    m = ek.models
    lorentz = m.LorentzNet(2, 16, n_layers=2, c_weight=0.05, readout="padded_mean")
    found: list[tuple[nn.Module, torch.dtype | None, int | None]] = [
        (lorentz, torch.float32, 20),
        (m.VecNet(2, 8, 4, 3, n_layers=1), None, None),
        (m.PELICANNano(2, batchnorm="b"), None, None),
        (m.PELICANClassifier(**small(config="s", dataset="jc", stabilizer="so2", method="spurions")), None, None),
        (m.PELICANRegressor(**small(stabilizer="se2", config="x", compat=True)), torch.float32, 30),
        (m.EGNN(3, 16, 2, 4, n_layers=2, attention=True, normalize=True), torch.float64, None),
        (m.EGNNVelocity(3, 2, 16, n_layers=2, coords_weight=0.3), None, None),
        (m.RadialField(16, 2, n_layers=1), None, None),
        (m.EuclidNet(8, n_graph_iters=2, c_weight=0.1), torch.float64, None),
        (m.EuclidNet(8, n_graph_iters=1, variant="paper"), None, None),
        (m.EuclidNetSO3(n_layers=2), None, None),
        (m.InteractionNetwork(40).double(), None, None),
        (m.VecNetTracking(8, 4, 3, n_graph_iters=1), None, None),
        (m.SchNet(3, 8, 2, n_layers=1, n_gaussians=6, reach=4.0), None, None),
        (m.TFN((3, 1), 4, (2, 1), n_layers=1), None, None),
        (m.GNN(3, 8, in_edge_nf=2, n_layers=1), None, None),
        (m.PFN(3, (8, 8), (8,)), None, None),
        (m.EFN((8, 8), (8,)), None, None),
        (m.MLP(6, 8), None, None),
        (m.PCNN(5, 9), None, None),
        (short_resnext(), None, None),
    ]
    refused = {m.EFP, m.LGN, m.ParT, m.ParticleNet}
    assert {getattr(m, name) for name in dir(m) if name[0].isupper()} - refused == {type(model) for model, *_ in found}
    return [(model.eval(), dtype, slots) for model, dtype, slots in found]


def tensors_of(given: Input, sizes: tuple[int, ...]) -> Tensor:
    nodes = sum(sizes)
    if given.rows == IMAGES:
        return torch.rand(len(sizes), 1, given.width, given.width, dtype=given.dtype)
    edges = 3 * nodes + 1 if nodes else 0
    if given.rows == OFFSETS:
        return torch.tensor([0, *sizes]).cumsum(0)
    if given.rows == ENDS:
        return torch.randint(0, max(nodes, 1), (2, edges))
    values = torch.randn(nodes if given.rows == NODES else edges, given.width, dtype=given.dtype)
    if given.name == "p4" or (given.name == "x" and given.width == 4):
        values[:, 0] = (0.1 + values[:, 1:].square().sum(1)).sqrt()
    return values


@needs_213
@pytest.mark.slow
def test_every_network_has_the_same_bits_in_a_fresh_process(tmp_path: Path) -> None:
    programs, inputs = [], []
    for model, dtype, slots in networks():
        inputs.append(inputs_of("package", model, 3, dtype))
        programs.append(Program(model, inputs[-1], slots))
    everything = All(programs, inputs)
    flat = [given for each in inputs for given in each]
    path, given, found = (str(tmp_path / name) for name in ("all.pt2", "given.pt", "found.pt"))
    compiled(everything, flat, path)
    batches = [[tensors_of(each, sizes) for each in flat] for sizes in SIZES]
    torch.save(batches, given)
    env = {**os.environ, "PYTHONPATH": str(Path(ek.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    load = [sys.executable, "-c", LOAD, path, given, found]
    done = subprocess.run(load, env=env, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for batch, results in zip(batches, torch.load(found), strict=True):
        with torch.inference_mode():
            expected = everything(*batch)
        for program, found_of, expected_of in zip(programs, results, expected, strict=True):
            name = type(program.model).__name__
            last_digit = 1e-6 if name == "TFN" else 0  # of a cross product, which is generated code
            for a, b in zip(found_of, expected_of, strict=True):
                assert a.dtype == b.dtype
                close = {"rtol": last_digit, "atol": last_digit, "equal_nan": True}
                torch.testing.assert_close(a, b, **close, msg=lambda text, name=name: f"{name}: {text}")
                assert not a.requires_grad
    torch.set_num_threads(threads)


REFUSED = [
    (lambda: ek.models.LorentzNet(2, 8).train(), {}, ValueError, "model: expected a network in evaluation"),
    (
        lambda: ek.models.LorentzNet(2, 8, readout="padded_mean"),
        {},
        ValueError,
        "padded_to: expected the number",
    ),
    (lambda: ek.models.PELICANClassifier(**small(config="x", compat=True)), {}, ValueError, "padded_to: expected"),
    (
        lambda: ek.models.PELICANClassifier(**small(irc_safe=True, config="M")),
        {},
        ValueError,
        "model: expected aggregations without the SoftDrop multiplicity",
    ),
    (lambda: ek.models.LorentzNet(2, 8).to("meta"), {}, ValueError, "model: expected a network on the CPU, got meta"),
    (lambda: ek.models.LGN((1, 1), n_basis=2), {}, TypeError, "model: expected a network of real numbers"),
    (lambda: nn.Linear(2, 2), {}, TypeError, "model: expected a network of equikernels.models, got Linear"),
    *[
        (make, {"reads": reads}, TypeError, f"model: expected a network whose .* as those of {work} do, got {name}")
        for make, work, name in (
            (lambda: ek.models.ParT(n_blocks=1), "attention", "ParT"),
            (lambda: ek.models.ParticleNet(), "the search for neighbours", "ParticleNet"),
            (lambda: ek.models.EFP(3), "the polynomials", "EFP"),
        )
        for reads in ("arguments", "events")
    ],
    (lambda: ek.models.EGNN(3, 8, 2), {"reads": "events"}, TypeError, "model: expected a network of equikernels.train"),
    (lambda: ek.models.GNN(3, 8, 2), {"reads": "events"}, TypeError, "model: expected a network of equikernels.train"),
    (
        lambda: ek.models.PELICANClassifier(**small(dataset="qg")),
        {"reads": "events"},
        ValueError,
        'reads: expected "arguments" for a network that reads PDG ids',
    ),
    (lambda: ek.models.LorentzNet(2, 8), {"reads": "jets"}, ValueError, "reads: expected one of arguments, events"),
]


@needs_213
@pytest.mark.parametrize(("make", "options", "kind", "text"), REFUSED)
def test_what_no_program_can_do_is_refused(make, options, kind, text, tmp_path: Path) -> None:
    model = make()
    if "evaluation" not in text:
        model.eval()
    with pytest.raises(kind, match=f"^package: {text}"):
        ek.deploy.package(model, tmp_path / "model.pt2", **options)
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^package: path: expected a name that ends in \.pt2, got model\.pt"):
        ek.deploy.package(ek.models.LorentzNet(2, 8).eval(), "model.pt")


@pytest.mark.skipif(TAKES_ANY_SIZE, reason="PyTorch is new enough")
def test_an_older_pytorch_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"^package: expected PyTorch 2\.13 or later"):
        ek.deploy.package(ek.models.LorentzNet(2, 8).eval(), "model.pt2")
