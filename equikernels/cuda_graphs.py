"""graphed: a forward pass as one CUDA graph for each size of batch: the GPU does not wait for Python."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .backend import current
from .checks import check_integer, check_number, fail
from .graph import CSR, Graph
from .nn.plain import warn_once

OP = "graphed"


class Sizes(NamedTuple):
    """What a recorded pass depends on of a graph: its kind, nodes, edges and, of a complete graph, events."""

    kind: int
    nodes: int
    edges: int
    events: int


def graphed(model: nn.Module, *, growth: float = 1.25, most: int = 16) -> Graphed:
    """A network whose forward pass on a GPU is recorded once for each size of batch, and then replayed.

    A replay starts all kernels at once: networks of small events, which otherwise wait for Python, run at the speed of
    the device. Batches are padded to one of few sizes (nodes, edges, events) with events of their own, whose results
    are cut off: the numbers are those of the model, up to the order in which a kernel adds where it depends on the
    average number of edges per node.

    The recorded pass is for evaluation. In training mode, with gradients, and on other devices than a GPU the model
    itself runs. For training on batches of one shape use ``torch.cuda.make_graphed_callables``: the ops are fit for
    capture.

    Args:
        model: called with one :class:`equikernels.Graph` (or with offsets ``ptr``, which are then copied to the host),
            tensors with a row for each of its nodes or edges (the latter as ``edge_attr``), and options. Its results
            have a row for each event, node or edge.
        growth: ratio of neighbouring sizes, > 1: more padding, fewer recorded passes.
        most: recorded passes that are kept; each holds the memory of one pass. The one used longest ago goes.

    Raises:
        ValueError: a bad number; at a call: no graph, or several.
        RuntimeError: at a call: the model copies from the device, as a readout does that is not told ``padded_to``.
    """
    return Graphed(model, check_number(OP, "growth", growth, 1.0), check_integer(OP, "most", most, "at least 1", 1))


class Graphed(nn.Module):
    """See :func:`graphed`. Its parameters are the model's, ``reset`` forgets what is recorded."""

    def __init__(self, model: nn.Module, growth: float, most: int) -> None:
        super().__init__()
        self.model, self.growth, self.most = model, growth, most
        self.recorded: OrderedDict[Any, _Recorded] = OrderedDict()
        self.training = model.training

    def reset(self) -> None:
        """Forgets recorded passes: call it after changing an attribute of the model that is no tensor."""
        self.recorded.clear()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's."""
        given = _bound(self.model, args, kwargs)
        if isinstance(given.get("ptr"), Tensor):
            given["ptr"] = Graph.complete(given["ptr"])
        found = [name for name, value in given.items() if isinstance(value, Graph)]
        if len(found) != 1:
            fail(OP, "graph", "one Graph among the arguments", len(found))
        graph: Graph = given[found[0]]
        if reason := self._obstacle(graph, given):
            if graph.device.type == "cuda":
                warn_once(self, OP, reason, instead="the model itself runs")
            return self.model(*args, **kwargs)
        sizes = padded_sizes(graph, self.growth)
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        options = {name: value for name, value in given.items() if name != found[0] and name not in tensors}
        key = (
            sizes,
            tuple((name, t.dtype, t.shape[1:] if _rows(name, t, graph) else t.shape) for name, t in tensors.items()),
            tuple(options.items()),
            tuple(t.data_ptr() for t in (*self.model.parameters(), *self.model.buffers())),
            _surroundings(graph.device.type),
        )
        known = self.recorded.get(key)
        if known is None:
            while len(self.recorded) >= self.most:
                self.recorded.popitem(last=False)
            known = self.recorded[key] = _Recorded(self.model, found[0], graph, sizes, tensors, options)
        self.recorded.move_to_end(key)
        return known(graph, tensors)

    def _obstacle(self, graph: Graph, given: dict[str, Any]) -> str | None:
        if not can_record(graph.device) or torch.compiler.is_compiling():
            return f"nothing is recorded on {graph.device.type!r}"
        if any(module.training for module in self.model.modules()):
            return "the model is in training mode"
        for name, value in given.items():
            if not isinstance(value, Tensor | Graph) and type(value).__hash__ is None:
                return f"{name} cannot be compared with later calls: it is a {type(value).__name__}"
        leaves = (*self.model.parameters(), *(v for v in given.values() if isinstance(v, Tensor)))
        if torch.is_grad_enabled() and any(t.requires_grad for t in leaves):
            return "gradients are wanted: call it under torch.inference_mode()"
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return "another recording is under way"
        return None


def can_record(device: torch.device) -> bool:
    return device.type == "cuda"


def _bound(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name."""
    call = inspect.signature(model.forward).bind(*args, **kwargs)
    named: dict[str, Any] = {}
    for name, value in call.arguments.items():
        kind = call.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            fail(OP, "model", "a forward with named arguments", f"*{name}")
        else:
            named[name] = value
    return named


def _rows(name: str, t: Tensor, graph: Graph) -> str | None:
    """Whether a tensor has a row for each node or edge."""
    if t.dim() == 0:
        return None
    if name.startswith("edge") and t.shape[0] == graph.num_edges:
        return "edges"
    return "nodes" if t.shape[0] == graph.num_nodes else None


def _surroundings(device: str) -> tuple[Any, ...]:
    """Settings under which a pass was recorded."""
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return current(), autocast, torch.backends.cuda.matmul.fp32_precision, torch.is_inference_mode_enabled()


# --- Sizes ----------------------------------------------------------------------------------------------------------


def size_of(least: int, growth: float) -> tuple[int, int]:
    """The smallest size of the series that holds ``least``, and the least number that it is used for."""
    size, fewest = 16, 0
    while size < least:
        size, fewest = math.ceil(size * growth), size + 1
    return size, fewest


def padded_sizes(graph: Graph, growth: float) -> Sizes:
    """Sizes that hold a graph and the padding that fills them exactly. Of the series, but no two of them are equal: the
    rows of a result tell what they belong to."""
    if graph._kind == CSR:  # the last node takes the padding's edges
        nodes, edges = size_of(graph.num_nodes + 1, growth)[0], size_of(graph.num_edges, growth)[0]
        return Sizes(CSR, nodes + (nodes == edges), edges, 0)
    real = graph.num_edges - (graph.num_nodes if graph.self_loops else 0)
    pairs, fewest_pairs = size_of(real, growth)
    pairs += pairs % 2  # n (n - 1) is even in every event
    nodes, fewest_nodes = size_of(graph.num_nodes, growth)
    # The padding's widest event has nearly all of its pairs; a few nodes more take the rest.
    wide = math.isqrt(pairs - fewest_pairs) + 1
    nodes += wide + 2 * math.isqrt(2 * wide) + 8
    nodes += nodes == pairs
    edges = pairs + (nodes if graph.self_loops else 0)
    events = size_of(graph._ptr.shape[0] - 1, growth)[0] + nodes - fewest_nodes
    while events in (nodes, edges):
        events += 1
    return Sizes(graph._kind, nodes, edges, events)


def filling(nodes: int, pairs: int) -> list[int]:
    """Sizes of events with so many nodes and ordered pairs i != j in all, the largest first."""
    sizes = []
    while nodes > 0:
        size = min((1 + math.isqrt(1 + 4 * pairs)) // 2, nodes)
        # the rest of the pairs has to fit the rest of the nodes
        while size > 1 and pairs - size * (size - 1) > (nodes - size) * (nodes - size - 1):
            size -= 1
        size = max(size, 1)
        sizes.append(size)
        nodes, pairs = nodes - size, pairs - size * (size - 1)
    if pairs != 0:
        fail(OP, "graph", "a padding that fills the size", f"{pairs} pairs left")
    return sizes


def padded_table(graph: Graph, sizes: Sizes) -> Tensor:
    """The indices of a graph and its padding, as kernels read them."""
    n, e, device = graph.num_nodes, graph.num_edges, graph.device
    if sizes.kind != CSR:
        loops = graph.self_loops
        pairs = sizes.edges - e - (sizes.nodes - n if loops else 0)
        added = filling(sizes.nodes - n, pairs)
        ptr, edge_ptr = graph._parts()
        counts = torch.tensor(added + [0] * (sizes.events - (ptr.shape[0] - 1) - len(added)))
        ends = counts.cumsum(0)
        edge_ends = (counts * counts if loops else counts * (counts - 1)).cumsum(0)
        more = torch.stack([ends + n, edge_ends + e]).to(device, non_blocking=True)
        return torch.cat([ptr, more[0], edge_ptr, more[1]])
    parts = []
    last = sizes.nodes - 1
    numbers = torch.arange(e, sizes.edges, device=device)
    for offsets, ends, edges in zip(*[iter(graph._parts())] * 3, strict=True):
        full = offsets.new_full((sizes.nodes - n,), e)
        full[-1:].fill_(sizes.edges)
        parts += [offsets, full, ends, ends.new_full((sizes.edges - e,), last), edges, numbers]
    return torch.cat(parts)


# --- One recorded pass -----------------------------------------------------------------------------------------------


class _Recorded:
    """The pass for one size of batch: tensors that the caller's are copied to, the recording, and its results."""

    def __init__(
        self,
        model: nn.Module,
        graph_name: str,
        graph: Graph,
        sizes: Sizes,
        tensors: dict[str, Tensor],
        options: dict[str, Any],
    ) -> None:
        self.sizes = sizes
        self.table = padded_table(graph, sizes)
        self.inputs = {name: _room(name, t, graph, sizes) for name, t in tensors.items()}
        self.fill(graph, tensors)

        def run() -> Any:
            # A graph keeps what it derives of its table: this one derives it in the recording.
            fresh = Graph._new(sizes.nodes, sizes.edges, sizes.kind, self.table)
            return model(**{graph_name: fresh}, **self.inputs, **options)

        self.replay, self.results = record(run)

    def fill(self, graph: Graph, tensors: dict[str, Tensor]) -> None:
        for name, t in tensors.items():
            room = self.inputs[name]
            if t.dim() == 0 or t.shape == room.shape:
                room.copy_(t)
            else:
                room[: t.shape[0]].copy_(t)
                room[t.shape[0] :].zero_()

    def __call__(self, graph: Graph, tensors: dict[str, Tensor]) -> Any:
        self.table.copy_(padded_table(graph, self.sizes))
        self.fill(graph, tensors)
        self.replay()
        events = graph._ptr.shape[0] - 1 if graph.is_complete else 0
        real = {self.sizes.events: events, self.sizes.nodes: graph.num_nodes, self.sizes.edges: graph.num_edges}

        def cut(t: Any) -> Any:
            if not isinstance(t, Tensor):
                return t
            return t[: real[t.shape[0]]].clone() if t.dim() > 0 and t.shape[0] in real else t.clone()

        return tree_map(cut, self.results)


def _room(name: str, t: Tensor, graph: Graph, sizes: Sizes) -> Tensor:
    rows = _rows(name, t, graph)
    return t.new_empty(t.shape if rows is None else (getattr(sizes, rows), *t.shape[1:]))


def record(run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """(replay, results) of a function on a GPU that reads and writes the same memory at every replay."""
    side = torch.cuda.Stream()  # libraries and kernels are loaded before the recording
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    recording = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(recording):
            results = run()
    except RuntimeError as error:
        raise RuntimeError(
            f"{OP}: model: expected a forward pass that copies nothing from the device: {error}"
        ) from error
    return recording.replay, results
