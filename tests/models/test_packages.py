"""Tests programs compiled ahead of time and loaded without the model's code."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.models import EGNN, EuclidNet, InteractionNetwork, LorentzNet

from ..support.cases import CASES, Case
from ..support.hits import hits
from ..support.tools import RecordOps

LOAD = """
import sys, torch, equikernels
package, given, wanted = sys.argv[1:]
run = torch._inductor.aoti_load_package(package)
tensors = torch.load(given)
graph = equikernels.Graph.from_edge_index(tensors.pop("edge_index"), len(tensors["x"]))
events = equikernels.Graph.complete(tensors.pop("ptr"))
for a, b in zip(run(graph, events, *tensors.values()), torch.load(wanted), strict=True):
    torch.testing.assert_close(a, b)
"""


class Everything(nn.Module):
    """Networks whose calls have optional bounds and radii."""

    def __init__(self) -> None:
        super().__init__()
        self.egnn = EGNN(3, 8, 8, n_layers=1)
        self.euclid = EuclidNet(4, n_layers=2, n_graph_iters=1)
        self.paper = EuclidNet(4, n_layers=2, n_graph_iters=1, variant="paper")
        self.interaction = InteractionNetwork(8)
        self.lorentz = LorentzNet(2, 8, n_layers=1)

    def forward(
        self, graph: ek.Graph, events: ek.Graph, x: Tensor, edge_attr: Tensor, weight: Tensor, p4: Tensor
    ) -> list[Tensor]:
        moved = ek.coordinate_update(x, weight, graph, clamp=None)
        near = ek.k_nearest(x, 3)
        close = ek.k_nearest(x, 3, radius=0.5)
        within = ek.radius_graph(x, 1.0).edge_index
        h, y = self.egnn(x, x, graph)
        scores = [self.euclid(x, graph), self.paper(x, graph), self.interaction(x, graph, edge_attr)]
        return [moved, *near, *close, within, h, y, *scores, self.lorentz(p4, p4[:, :2], events)]


@pytest.mark.slow
def test_packages_load_in_a_fresh_process(tmp_path: Path) -> None:
    p = hits(20, 90)
    x, edge_attr = p.x.float(), p.edge_attr.float()
    space = torch.randn(9, 3)
    p4 = torch.cat([(1 + space.square().sum(1, keepdim=True)).sqrt(), space], dim=1)
    tensors = {"x": x, "edge_attr": edge_attr, "weight": torch.randn(90), "p4": p4}
    ptr = torch.tensor([0, 4, 9])
    arguments = p.graph, ek.Graph.complete(ptr), *tensors.values()
    model = Everything().eval()
    given, wanted, package = (str(tmp_path / name) for name in ("given.pt", "wanted.pt", "model.pt2"))
    with torch.no_grad():
        torch.save(model(*arguments), wanted)
        program = torch.export.export(model, arguments)
        torch._inductor.aoti_compile_and_package(program, package_path=package)
    torch.save({"edge_index": p.graph.edge_index, "ptr": ptr, **tensors}, given)
    done = subprocess.run([sys.executable, "-c", LOAD, package, given, wanted], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def numbers(value: object) -> list[float]:
    if isinstance(value, list | tuple):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_option_reaches_an_op_as_an_infinity(case: Case) -> None:
    """A package stores options as text, which cannot represent infinity."""
    options = {**case.options, "clamp": math.inf} if "clamp" in case.options else case.options
    inputs, graph = case.inputs(torch.float32), case.graph()
    for given in (case.options, options):
        with RecordOps() as record:
            out = case.call(inputs, graph, given) if case.call else getattr(ek, case.op)(**inputs, graph=graph, **given)
        assert out.dtype in (torch.float32, torch.float64)
        assert all(math.isfinite(n) for _, args in record.calls for n in numbers(args))


@pytest.mark.parametrize(
    "search",
    [
        lambda x, r: ek.k_nearest(x, 2, radius=r),
        lambda x, r: (ek.radius_graph(x, r).edge_index,),
        lambda x, r: (ek.radius_graph(x, r, max_num_neighbors=2).edge_index,),
    ],
)
def test_no_radius_reaches_a_search_as_an_infinity(search) -> None:
    x = torch.randn(7, 3)
    found = []
    for radius in (None, math.inf, 1e300):
        with RecordOps() as record:
            found.append(search(x, radius))
        assert record.calls
        assert all(math.isfinite(n) for _, args in record.calls for n in numbers(args))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
