"""Sample inputs of message_passing and row_mlp, for the list in cases.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.message_passing.activations import ACTIVATIONS

Inputs = dict[str, Tensor]
TYPICAL = ("complete", "sparse")
LARGE = ("large_event", "random_sparse")
HALVES = (("complete", "random_sparse"), ("sparse", "large_event"))  # in turn, where one of each is enough
ENDS = ("receiver", "sender")
FORMULA = (*ENDS, "invariants")
MOST_LAYERS = 6
WEIGHTS = (
    *(f"{name}{k + 1}" for k in range(MOST_LAYERS) for name in ("weight", "bias", "gamma", "beta", "mean", "variance")),
    "gate_weight",
    "gate_bias",
)


class Spec(NamedTuple):
    """A layer of a sample network. Its parameters are called weight1, bias1, gamma1, beta1, mean1, variance1 in the
    first layer; norm: "batch", "given" (a batch norm of given statistics), "layer", each with " affine" or without."""

    width: int
    activation: str = "identity"
    norm: str = ""
    bias: bool = True
    slope: float = 0.2


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def momenta(n: int, generator: torch.Generator) -> Tensor:
    """Massive particles of a few GeV, energy first."""
    p = normal(n, 3, generator=generator)
    return torch.cat([(1 + (p * p).sum(-1, keepdim=True)).sqrt(), p], dim=-1)


def places(n: int, generator: torch.Generator) -> Tensor:
    return normal(n, 3, generator=generator)


def parameters(layers: tuple[Spec, ...], columns: int, generator: torch.Generator, gate: int = 0) -> Inputs:
    """Those of a network, and of a gate on ``gate`` channels."""
    made: Inputs = {}
    for k, layer in enumerate(layers, 1):
        made[f"weight{k}"] = normal(layer.width, columns, generator=generator) / max(columns, 1) ** 0.5
        columns = layer.width
        names = ["bias"] if layer.bias else []
        names += ["gamma", "beta"] if "affine" in layer.norm else []
        names += ["mean", "variance"] if "given" in layer.norm else []
        for name in names:
            made[f"{name}{k}"] = normal(columns, generator=generator) / 2
        if "given" in layer.norm:
            made[f"variance{k}"] = made[f"variance{k}"].exp()
    if gate:
        made |= {"gate_weight": normal(1, gate, generator=generator) / gate**0.5}
        made |= {"gate_bias": normal(1, generator=generator)}
    return made


def network(
    inputs: Inputs, layers: tuple[Spec, ...], depth: int | None = None, order: tuple[str, ...] = FORMULA
) -> ek.EdgeMLP:
    """The network whose parameters are among the inputs."""
    made = []
    for k, layer in enumerate(layers, 1):
        norm = None
        if layer.norm:
            of_norm = [inputs.get(f"{name}{k}") for name in ("gamma", "beta", "mean", "variance")]
            kind, eps = ("layer", 1e-5) if "layer" in layer.norm else ("batch", 1e-3)
            norm = ek.Norm(kind, *of_norm[:2], eps, *of_norm[2:])
        weight, bias = inputs[f"weight{k}"], inputs.get(f"bias{k}")
        made.append(ek.Layer(weight, bias, layer.activation, layer.slope, norm))
    gate = None
    if "gate_weight" in inputs:
        gate = ek.Layer(inputs["gate_weight"], inputs.get("gate_bias"), "sigmoid")
    depth = depth or len(made)
    return ek.EdgeMLP.of(made[:depth], gate=gate, head=made[depth:] or None, order=order)


def edge_inputs(
    *layers: Spec,
    order: tuple[str, ...] = FORMULA,
    h: int = 4,
    attr: int = 3,
    points: Callable[[int, torch.Generator], Tensor] | None = momenta,
    columns: int = 2,
    gate: int = 0,
) -> Callable[[torch.Generator, ek.Graph], Inputs]:
    """Inputs of message_passing: ``h`` features, ``attr`` attributes where the order has them, ``columns``
    invariants."""

    def make(generator: torch.Generator, graph: ek.Graph) -> Inputs:
        made, n = {}, graph.num_nodes
        if h:
            made["h"] = normal(n, h, generator=generator)
        if points is not None:
            made["x"] = points(n, generator)
        if "edge_attr" in order:
            made["edge_attr"] = normal(graph.num_edges, attr, generator=generator)
        read = {"receiver": h, "sender": h, "invariants": columns, "edge_attr": attr}
        return made | parameters(layers, sum(read[part] for part in order), generator, gate)

    return make


def call(inputs: Inputs, graph: ek.Graph, options: dict[str, Any]) -> Tensor:
    """``wanted`` of the outputs; by default those asked for, side by side, with a row for each node."""
    options = dict(options)
    wanted = options.pop("wanted", None)
    mlp = network(inputs, options.pop("layers"), options.pop("depth", None), options.pop("order", FORMULA))
    given = {name: inputs.get(name) for name in ("h", "x", "edge_attr")}
    out = ek.message_passing(mlp, graph, **given, **options)
    if wanted is not None:
        return getattr(out, wanted)
    parts = [t for t in (out.messages, out.coordinates) if t is not None]
    if out.edges is not None:
        parts.append(out.edges.new_zeros(graph.num_nodes, out.edges.shape[1]).index_add(0, graph.receiver, out.edges))
    return torch.cat(parts, dim=1)


def call_rows(inputs: Inputs, graph: ek.Graph, options: dict[str, Any]) -> Tensor:
    tables = [t for name, t in inputs.items() if name.startswith("table")]
    return ek.row_mlp(network(inputs, options["layers"]), *tables, residual=inputs.get("residual"))


def row_cases(case: Callable[..., Any]) -> list[Any]:
    """``case`` is the class of cases."""

    def make(id: str, graph: str, columns: tuple[int, ...], *layers: Spec, residual: bool = False, **rest: Any) -> Any:
        def inputs(generator: torch.Generator, graph: ek.Graph) -> Inputs:
            sizes = {f"table{k + 1}": c for k, c in enumerate(columns)}
            sizes |= {"residual": layers[-1].width} if residual else {}
            made = {name: normal(graph.num_nodes, c, generator=generator) for name, c in sizes.items()}
            return made | parameters(layers, sum(columns), generator)

        fields = {"call": call_rows, "weights": WEIGHTS, **rest}
        return case("row_mlp", id, graph, inputs, {"layers": layers}, **fields)

    norms = Spec(5, "silu", "batch affine", bias=False), Spec(4, "tanh", "batch"), Spec(3)
    narrow = Spec(6, "silu", "layer"), Spec(2, "sigmoid")
    given = Spec(7, "softplus", "given affine"), Spec(50, "leaky_relu", "given"), Spec(3, "gelu")
    wide = Spec(60, "relu"), Spec(50, "gelu_tanh", bias=False), Spec(3, "elu")
    listed = [make("norms", "no_nodes", (3, 2), *norms, residual=True)]
    for name in (*TYPICAL, "large_event", "no_nodes", "one_particle"):
        listed.append(make("narrow", name, (4, 3), *narrow, residual=True))
    for name in (*TYPICAL, "large_event"):
        listed += [
            make("norms", name, (3, 2), *norms, residual=True),
            make("given", name, (3,), *given, smooth=False, folded=WEIGHTS),
            make("wide", name, (3, 1, 2), *wide, smooth=False),
        ]
    listed.append(make("no kernel", "complete", (3,), Spec(4, "silu", "layer affine"), Spec(2), kernel=False))
    return listed


def euclidnet(h: int, end: str = "identity") -> tuple[Spec, ...]:
    return (
        Spec(h, "silu", "layer"),
        Spec(h),
        Spec(h, "silu", "layer"),
        Spec(h, "sigmoid", "layer"),
        Spec(h, "silu", "layer"),
        Spec(1, end),
    )


def edge_cases(case: Callable[..., Any], graphs: tuple[str, ...], small: tuple[str, ...]) -> list[Any]:
    """``case`` is the class of cases."""
    turn = 0

    def make(id: str, graph: str, layers: tuple[Spec, ...], options: dict[str, Any], **rest: Any) -> Any:
        names = ("per_edge", "vectors", "equivariant", "smooth", "kernel", "weights", "folded")
        changes = {name: rest.pop(name) for name in names if name in rest}
        inputs = edge_inputs(*layers, **rest)
        options = {"layers": layers, **({"order": rest["order"]} if "order" in rest else {}), **options}
        fields = {"per_edge": ("edge_attr",), "vectors": ("x",), "weights": WEIGHTS, **changes}
        return case("message_passing", id, graph, inputs, options, call=call, **fields)

    def halves(*arguments: Any, **rest: Any) -> list[Any]:
        nonlocal turn
        turn += 1
        return [make(arguments[0], name, *arguments[1:], **rest) for name in HALVES[turn % 2]]

    def geometry(*direction: Any, **options: Any) -> ek.Geometry:
        plane = {"metric": "euclidean", "invariants": "interval", "psi": False}
        return ek.Geometry(**{**plane, **({"direction": direction[0]} if direction else {}), **options})

    def block(activation: str, norm: str, *widths: int) -> tuple[Spec, ...]:
        """Layers of the message, the last but one of them of the head."""
        first, *hidden = (Spec(w, activation) for w in widths)
        return first._replace(norm=norm, bias=norm == ""), *hidden, Spec(1, bias=False)

    lorentz, euclid = block("silu", "batch affine", 3, 3, 3), euclidnet(3)
    messages = Spec(5, "relu"), Spec(4, "relu")
    tables = Spec(5, "silu", "batch affine", bias=False), Spec(4, "tanh", "layer"), Spec(3, "sigmoid")
    both = {"coordinates": "mean"}
    mixed: dict[str, Any] = {"equivariant": False}  # messages and coordinates in one output
    moved: dict[str, Any] = {"vectors": ("x", "out"), "smooth": False}
    alone: dict[str, Any] = {"messages": "none", "coordinates": "mean", "wanted": "coordinates"}
    plane: dict[str, Any] = {"points": places, "columns": 1}
    listed = []
    # Lanes across channels.
    for name in graphs:
        clamp = {**both, "depth": 2, "geometry": ek.Geometry(clamp=2.0), "edges": True}
        listed += [
            make("lorentz", name, lorentz, clamp, gate=3, **mixed),
            make("messages", name, messages, {"wanted": "messages"}),
        ]
    for name in (*TYPICAL, *LARGE):
        evaluated = block("relu", "given affine", 9, 7, 5)
        listed += [
            make(
                "relu",
                name,
                evaluated,
                {**both, "depth": 2, "geometry": ek.Geometry(clamp=0.5)},
                gate=7,
                **mixed,
                folded=WEIGHTS,
            ),
            make(
                "statistics",
                name,
                (tables[0],),
                {"wanted": "statistics"},
                weights=(*WEIGHTS, "out"),
                folded=("h", *WEIGHTS),
            ),
        ]
        wide = block("relu", "batch affine", 72, 72, 72)
        options = {**both, "depth": 2, "geometry": ek.Geometry(clamp=100.0)}
        listed.append(make("wide", name, wide, options, gate=72, h=72, **mixed, smooth=False, folded=WEIGHTS))
    deep = Spec(6, "gelu", "given"), Spec(17, "gelu", "given affine"), Spec(5, "gelu")
    tanh = Spec(19, "tanh"), Spec(1, "tanh", bias=False), Spec(1, bias=False)
    egnn, sender = block("silu", "", 4, 6, 4), block("leaky_relu", "", 4, 33, 4)
    one = {**alone, "depth": 1}
    two = {**alone, "depth": 2}
    shuffled = "edge_attr", "sender", "invariants", "receiver"
    edges: dict[str, Any] = {"messages": "none", "edges": True, "wanted": "edges"}
    per_edge: dict[str, Any] = {"per_edge": ("edge_attr", "out")}
    listed += [
        *halves("deep", deep, {"messages": "mean", "edges": True}, folded=WEIGHTS),
        *halves("shallow", tanh, {**both, "depth": 1}, order=("receiver", "invariants"), **mixed),
        *halves("coordinates", block("relu", "", 8, 8, 8), two, **moved),
        *halves(
            "norm_plus_one",
            egnn,
            {**two, "coordinates": "sum", "geometry": geometry("norm_plus_one")},
            **plane,
            **moved,
        ),
        *halves(
            "normed",
            block("silu", "batch", 4, 6, 4),
            {**two, "geometry": geometry(ek.Normed(0.3, 0.5))},
            **plane,
            vectors=("x", "out"),
        ),
        *halves(
            "normed_held",
            block("silu", "", 5, 4),
            {**both, "depth": 1, "geometry": geometry(ek.Normed(inside=0.1, held=True), clamp=0.6)},
            **mixed,
            points=places,
            order=("sender",),
            smooth=False,
        ),
        *halves(
            "sender",
            sender,
            {**two, "geometry": ek.Geometry(invariants="product", direction="sender")},
            columns=1,
            **moved,
        ),
        *halves("edges", (Spec(5, "relu"), Spec(11, "relu")), edges, order=shuffled, gate=11, **per_edge),
        *halves("no ends", (Spec(2, "gelu_tanh", "batch affine"),), {}, h=0, order=("invariants", "edge_attr"), attr=1),
        *halves("no coordinates", (Spec(2), Spec(3)), {}, order=(*ENDS, "edge_attr"), points=None, h=1, vectors=()),
    ]
    for k, activation in enumerate(a for a in ACTIVATIONS if a not in ("relu", "leaky_relu", "silu", "gelu")):
        layers = block(activation, "", 9, 7, 5)
        options = {**both, "depth": 2}
        listed.append(
            make(activation, TYPICAL[k % 2], layers, options, gate=7, **mixed, smooth=activation != "hardswish")
        )
    # A self-loop's unit vector is 0 / 1e-8: its derivatives cancel only to rounding at that scale, in any formula.
    for name in ("complete", "csr", "large_event"):
        layers = (*block("silu", "", 10, 16, 4)[:-1], Spec(1, "tanh", bias=False))
        options = {**both, "depth": 2, "geometry": geometry("unit")}
        # the norm is held constant: not what finite differences see
        listed.append(
            make("attributes", name, layers, options, order=shuffled, gate=16, **plane, **mixed, smooth=False)
        )
    # Lanes across edges, which read both ends, or tables of the first layer's products.
    everything = {"coordinates": "sum", "depth": 4, "edges": 1, "geometry": geometry(invariants="both", psi=True)}
    whole = (*FORMULA, "edge_attr")
    for name in small:
        listed += [
            make("euclidnet", name, euclid, everything, points=places, h=3, order=whole, **mixed),
            make("norm and tables", name, tables, {"edges": 1, "messages": "sum"}, order=whole, h=3, attr=2),
        ]
    several = tuple(Spec(w, a) for w, a in ((9, "elu"), (17, "softplus"), (5, "mish")))
    several += Spec(8, "hardswish", "layer"), Spec(33, "gelu_tanh", "layer"), Spec(4, "silu", "layer")
    mean_free = Spec(17, "gelu"), Spec(33, "tanh", "layer"), Spec(9, "leaky_relu", "layer")
    one_layer = Spec(8, "silu", "layer"), Spec(1, "tanh")
    sums = {**one, "coordinates": "sum"}
    listed += [
        *(
            make(
                "euclidnet",
                name,
                euclidnet(5),
                {**everything, "geometry": geometry(invariants="both", clamp=0.4)},
                points=places,
                h=5,
                order=whole,
                **mixed,
            )
            for name in LARGE
        ),
        *halves(
            "layer norms",
            mean_free,
            {"geometry": ek.Geometry(invariants="product")},
            order=("invariants", "sender"),
            columns=1,
        ),
        *halves(
            "head of one layer",
            one_layer,
            {**sums, "geometry": geometry()},
            order=("receiver", "edge_attr"),
            h=3,
            attr=2,
            points=places,
            vectors=("x", "out"),
        ),
        *halves(
            "activations", several, {"edges": 4}, points=None, order=(*ENDS, "edge_attr"), vectors=(), smooth=False
        ),
        *halves(
            "interaction",
            (Spec(5, "relu"), Spec(4)),
            {**edges, "edges": 0},
            order=("sender", "receiver", "edge_attr"),
            attr=4,
            points=None,
            vectors=(),
            **per_edge,
        ),
        *halves(
            "many inputs",
            (Spec(9, "silu", "layer"), Spec(2, norm="given")),
            {"geometry": geometry()},
            points=places,
            columns=1,
            h=35,
            attr=5,
            order=whole,
            folded=WEIGHTS,
        ),
    ]
    for direction, more in (
        ("sender", {"clamp": 0.5}),
        ("norm_plus_one", {}),
        (ek.Normed(0.3, 0.5), {"psi": True}),
        (ek.Normed(inside=0.1, held=True), {}),
    ):
        id = direction if isinstance(direction, str) else f"normed{'_held' * direction.held}"
        listed += halves(
            f"{id} of one layer",
            one_layer,
            {**sums, "geometry": geometry(direction, **more)},
            points=places,
            columns=1,
            vectors=("x", "out"),
            equivariant="clamp" not in more,
            smooth=id in ("normed", "sender"),
        )
    none = (
        Spec(4, "silu", "layer affine"),
        Spec(3, "tanh", "batch affine"),
        Spec(5, "silu", "batch"),
        Spec(1, "sigmoid"),
    )
    for name in TYPICAL:
        listed.append(make("no kernel", name, none, {**both, "depth": 2, "edges": 0}, gate=3, kernel=False, **mixed))
    return listed
