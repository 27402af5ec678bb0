"""graphed: a recorded pass gives what the model gives, for other batches of the same size too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import cuda_graphs, indices
from equikernels.graph import CSR

from ..support import tape
from ..support.cases import four_vectors


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Passes are recorded on the CPU, as on a device whose numbers the host does not see."""
    made: list[Any] = []

    def record(run: Callable[[], Any]) -> Any:
        monkeypatch.setattr(indices, "on_host", lambda t: False)
        made.append(tape.record(run))
        return made[-1]

    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(cuda_graphs, "can_record", lambda device: True)
    return made


def jets(sizes: list[int], seed: int, self_loops: bool = False) -> tuple[Tensor, Tensor, ek.Graph]:
    generator = torch.Generator().manual_seed(seed)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    x = four_vectors(int(ptr[-1]), generator)
    edges = sum(n * n if self_loops else n * (n - 1) for n in sizes)
    graph = ek.Graph.complete(ptr, self_loops, num_nodes=len(x), num_edges=edges)
    return x, torch.randn(len(x), 2, generator=generator), graph


def hits(nodes: int, edges: int, seed: int) -> tuple[Tensor, Tensor, ek.Graph]:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(0, nodes, (2, edges), generator=generator)
    return (
        torch.randn(nodes, 3, generator=generator),
        torch.randn(edges, 4, generator=generator),
        ek.Graph.from_edge_index(pairs, nodes),
    )


def lorentznet(readout: str, **options: Any) -> Callable[[], tuple[nn.Module, Callable[[int], dict[str, Any]]]]:
    def make() -> tuple[nn.Module, Callable[[int], dict[str, Any]]]:
        def batch(k: int) -> dict[str, Any]:
            x, scalars, graph = jets([[7, 0, 12, 5], [9, 6, 8, 1]][k], k)
            return {"x": x, "scalars": scalars.float(), "ptr": graph, **options}

        return ek.models.LorentzNet(2, 8, n_layers=2, c_weight=0.1, readout=readout), batch

    return make


def pelican() -> tuple[nn.Module, Callable[[int], dict[str, Any]]]:
    def batch(k: int) -> dict[str, Any]:
        p4, _, graph = jets([[6, 3, 8], [7, 7, 3]][k], k, self_loops=True)
        return {"p4": p4, "ptr": graph}

    sizes = {"num_channels_scalar": 3, "num_channels_m": [[4]], "num_channels_2to2": [3]}
    return ek.models.PELICANClassifier(**sizes, num_channels_out=[4], num_channels_m_out=[4, 3]), batch


def tracker(make: Callable[[], nn.Module], names: tuple[str, ...]) -> Any:
    def pair() -> tuple[nn.Module, Callable[[int], dict[str, Any]]]:
        def batch(k: int) -> dict[str, Any]:
            x, edge_attr, graph = hits(*[(30, 70), (27, 75)][k], k)
            generator = torch.Generator().manual_seed(k)
            h, vel = (torch.randn(len(x), columns, generator=generator) for columns in (5, 3))
            all_of = {"x": x, "edge_attr": edge_attr, "graph": graph, "h": h, "vel": vel, "s": h, "v": vel[:, None]}
            return {name: all_of[name] for name in names}

        return make(), batch

    return pair


def tagger(make: Callable[[], nn.Module], names: tuple[str, ...], self_loops: bool = False) -> Any:
    def pair() -> tuple[nn.Module, Callable[[int], dict[str, Any]]]:
        def batch(k: int) -> dict[str, Any]:
            p4, scalars, graph = jets([[7, 0, 12, 5], [9, 6, 8, 1]][k], k, self_loops)
            all_of = {"x": p4, "p4": p4, "scalars": scalars.float(), "features": p4.float(), "ptr": graph}
            return {name: all_of[name] for name in names}

        return make(), batch

    return pair


MODELS = {
    "LorentzNet": lorentznet("masked_mean"),
    "LorentzNet, padded": lorentznet("padded_mean", padded_to=60),
    "PELICAN": pelican,
    "EGNN": tracker(lambda: ek.models.EGNN(5, 6, 4, n_layers=2, attention=True), ("h", "x", "graph")),
    "EuclidNet": tracker(lambda: ek.models.EuclidNet(4), ("x", "graph")),
    "EuclidNetSO3": tracker(lambda: ek.models.EuclidNetSO3(4, 2), ("x", "graph")),
    "Interaction Network": tracker(lambda: ek.models.InteractionNetwork(6), ("x", "graph", "edge_attr")),
    "EGNN, velocities": tracker(lambda: ek.models.EGNNVelocity(5, 0, 8), ("h", "x", "graph", "vel")),
    "Radial Field": tracker(lambda: ek.models.RadialField(8), ("x", "graph", "vel")),
    "GNN": tracker(lambda: ek.models.GNN(5, 8), ("h", "graph")),
    "SchNet": tracker(lambda: ek.models.SchNet(5, 8, 3), ("h", "x", "graph")),
    "TFN": tracker(lambda: ek.models.TFN((5, 1), 4, (1, 1)), ("s", "v", "x", "graph")),
    "VecNet, tracks": tracker(lambda: ek.models.VecNetTracking(), ("x", "graph")),
    "VecNet": tagger(lambda: ek.models.VecNet(2, 8, 4, n_layers=2), ("x", "scalars", "ptr")),
    "LGN": tagger(lambda: ek.models.LGN(n_scalar=2), ("p4", "scalars", "ptr"), self_loops=True),
    "PELICAN-nano": tagger(lambda: ek.models.PELICANNano(4), ("p4", "ptr"), self_loops=True),
    "PFN": tagger(lambda: ek.models.PFN(4), ("features", "ptr")),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_replays_give_what_the_model_gives(make: Any, recordings: list[Any]) -> None:
    torch.manual_seed(0)
    model, batch = make()
    model.eval()
    fast = ek.graphed(model)
    with torch.no_grad():
        expected = [model(**batch(k)) for k in (0, 1)]
        results = [fast(**batch(k)) for k in (0, 1, 0)]
    assert len(recordings) == 1  # one size for all
    for result, k in zip(results, (0, 1, 0), strict=True):
        torch.testing.assert_close(result, expected[k], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=0)


def test_weights_that_change_are_read_again(recordings: list[Any]) -> None:
    model, batch = lorentznet("masked_mean")()
    fast = ek.graphed(model.eval())
    with torch.no_grad():
        fast(**batch(0))
        for p in model.parameters():
            p.mul_(1.5)
        torch.testing.assert_close(fast(**batch(0)), model(**batch(0)), rtol=1e-5, atol=1e-6)
        assert len(recordings) == 1
        model.embedding.weight = nn.Parameter(model.embedding.weight * 2)
        torch.testing.assert_close(fast(**batch(0)), model(**batch(0)), rtol=1e-5, atol=1e-6)
    assert len(recordings) == 2


def test_the_model_itself_runs_where_nothing_may_be_recorded(recordings: list[Any]) -> None:
    model, batch = lorentznet("masked_mean")()
    fast = ek.graphed(model.eval())
    assert fast(**batch(0)).requires_grad  # gradients are wanted
    with torch.no_grad():
        fast.train()(**batch(0))  # batch statistics would count the padding
        model.eval().embedding.train()
        fast(**batch(0))
    assert not recordings
    again = ek.graphed(model.eval())
    with torch.no_grad():
        again(**batch(0))
    assert len(recordings) == 1


def test_a_pass_that_waits_for_the_device_is_refused(recordings: list[Any]) -> None:
    model, batch = lorentznet("padded_mean")()
    with torch.no_grad(), pytest.raises(RuntimeError, match="waits for the device"):
        ek.graphed(model.eval())(**batch(0))


@pytest.mark.parametrize(
    "make",
    [
        tagger(lambda: ek.models.ParticleNet(4, 4, ((8,), (8,))), ("features", "ptr")),
        tagger(lambda: ek.models.ParT(4, n_blocks=1, n_class_blocks=1), ("features", "p4", "ptr")),
    ],
    ids=["ParticleNet", "ParT"],
)
def test_networks_that_wait_for_the_device_are_refused(make: Any, recordings: list[Any]) -> None:
    model, batch = make()
    with torch.no_grad(), pytest.raises(RuntimeError, match="waits for the device"):
        ek.graphed(model.eval())(**batch(0))


def test_few_passes_are_kept(recordings: list[Any]) -> None:
    model, batch = lorentznet("masked_mean")()
    fast = ek.graphed(model.eval(), most=2)
    given = batch(0)
    with torch.no_grad():
        for dtype in (torch.float64, torch.float32, torch.float64, torch.float16, torch.float64, torch.float32):
            fast(**{**given, "scalars": given["scalars"].to(dtype)})
        assert len(fast.recorded) == 2
        fast.reset()
    assert len(recordings) == 4
    assert not fast.recorded


@pytest.mark.parametrize("options", [{"growth": 1.0}, {"growth": float("nan")}, {"most": 0}])
def test_bad_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"graphed: {next(iter(options))}: expected"):
        ek.graphed(nn.Identity(), **options)


def test_offsets_stand_for_a_graph(recordings: list[Any]) -> None:
    model, batch = lorentznet("masked_mean")()
    given = batch(0)
    fast = ek.graphed(model.eval())
    with torch.no_grad():
        result = fast(**{**given, "ptr": given["ptr"].ptr})
        assert torch.equal(result, fast(**given))
    assert len(recordings) == 1


def test_one_graph_is_expected(recordings: list[Any]) -> None:
    with pytest.raises(ValueError, match="graphed: graph: expected one Graph among the arguments, got 0"):
        ek.graphed(nn.Identity().eval())(torch.ones(3))


@pytest.mark.parametrize("growth", [1.01, 1.25, 3.0])
@pytest.mark.parametrize("self_loops", [False, True])
def test_padding_fills_a_complete_graph(growth: float, self_loops: bool) -> None:
    for sizes in ([1], [2], [0], [90], [3, 0, 7, 1, 1, 60], [50] * 40, [200], [1] * 300, []):
        _, _, graph = jets(sizes, 0, self_loops)
        padded = cuda_graphs.padded_sizes(graph, growth)
        table = cuda_graphs.padded_table(graph, padded)
        ptr = table.chunk(2)[0]
        assert ptr.shape[0] == padded.events + 1
        whole = ek.Graph.complete(ptr, self_loops, num_nodes=padded.nodes, num_edges=padded.edges)  # checks all of it
        assert torch.equal(whole.table, table)
        assert torch.equal(ptr[: len(sizes) + 1], graph.ptr)
        assert padded.events not in (padded.nodes, padded.edges)


def test_padding_fills_a_list_of_edges() -> None:
    for nodes, edges in ((1, 1), (30, 70), (16, 0), (40, 400)):
        _, _, graph = hits(nodes, edges, 3)
        padded = cuda_graphs.padded_sizes(graph, 1.25)
        whole = ek.Graph._new(padded.nodes, padded.edges, CSR, cuda_graphs.padded_table(graph, padded))
        expected = torch.cat([graph.edge_index, torch.full((2, padded.edges - edges), padded.nodes - 1)], dim=1)
        assert torch.equal(whole.edge_index, expected)
        assert torch.equal(ek.Graph.from_edge_index(expected, padded.nodes).table, whole.table)


@pytest.mark.parametrize(("nodes", "edges"), [(34, 39), (35, 40), (3230, 3508), (14, 16)])
def test_results_of_nodes_and_of_edges_are_told_apart(nodes: int, edges: int, recordings: list[Any]) -> None:
    """Both numbers fall into one step of the series."""
    x, _, graph = hits(nodes, edges, 2)
    padded = cuda_graphs.padded_sizes(graph, 1.25)
    assert cuda_graphs.size_of(nodes + 1, 1.25) == cuda_graphs.size_of(edges, 1.25)
    assert padded.nodes != padded.edges
    model = ek.models.EGNN(3, 4, 2, n_layers=1).eval()
    with torch.no_grad():
        for ours, theirs in zip(ek.graphed(model)(x, x, graph), model(x, x, graph), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
