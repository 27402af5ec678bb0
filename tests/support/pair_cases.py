"""Sample inputs of the ops on pairs, for the list in cases.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.pairs import basis

from .mlp_cases import Inputs, normal


def _network(given: Inputs, of_batch: bool, **options: Any) -> Tensor:
    """A layer and its norm, by the statistics of the batch or by running ones."""
    T, weight = given["T"], given.get("w")
    running = torch.linspace(0.2, 1.5, T.shape[1] if weight is None else weight.shape[0], dtype=T.dtype)
    norm = ek.PairNorm(given.get("gamma"), given.get("beta"), running - 1, running, 0.1, of_batch)
    out, affine, statistics = ek.pairwise_network(T, weight, given.get("b"), norm, **options)
    assert statistics.shape == (affine.shape if of_batch else (0,))
    return torch.addcmul(affine[1], out, affine[0])


def pair_cases(of: Callable[..., Any]) -> list[Any]:
    """``of`` is the class of cases."""
    letters = {"T": "pairs", "x": "nodes", "row": "nodes", "col": "nodes", "diag": "nodes", "weight": "nodes"}

    def case(op: str, id: str, graph: str, shapes: dict[str, tuple[int, ...]], **options: Any) -> Any:
        def make(generator: torch.Generator, graph: ek.Graph) -> Inputs:
            rows = {"pairs": graph.pairs.num_edges, "nodes": graph.num_nodes, "event": graph.ptr.shape[0] - 1}
            sizes = {name: rows.get(letters.get(name, name)) for name in shapes}
            return {
                name: normal(*([] if sizes[name] is None else [sizes[name]]), *shape, generator=generator)
                for name, shape in shapes.items()
            }

        def call(inputs: Inputs, graph: ek.Graph, options: dict[str, Any]) -> Tensor:
            given = {name: t for name, t in inputs.items() if not name.startswith("alpha")}
            options = dict(options)
            if op == "pairwise_linear":
                return ek.pairwise_linear(given["T"], given["w"], given.get("b"), **options)
            if op == "pairwise_affine":
                return ek.pairwise_affine(**given)
            if op == "pairwise_network":
                return _network(given, **options)
            if op.startswith(("linear", "aggregate")):
                alphas = [t for name, t in inputs.items() if name.startswith("alpha")]
                layer = {k: options.pop(k) for k in ("config", "nbar", "maps") if k in options}
                inner = options.pop("aggregate_activation", "identity")
                options["how"] = ek.Aggregation(**layer, alphas=alphas, activation=inner)
                batch = ek.PairBatch(graph, given.pop("weight", None))
                if "coefs00" in given:
                    given["coefs"] = tuple(given.pop(f"coefs{k}") for k in ("00", "01", "10", "11"))
                function = getattr(basis, op) if op.startswith("aggregate") else getattr(ek, op)
                return function(**given, ptr=batch, **options)
            out = getattr(ek, op)(**given, ptr=graph, **options)
            return out if isinstance(out, Tensor) else torch.cat(out, dim=1)

        folded = tuple(n for n in shapes if n.startswith(("coefs", "affine"))) if "affine" in shapes else ()
        return of(op, id, graph, make, options, call=call, complete_only=True, folded=folded)

    def weights(c: int, d: int) -> dict[str, tuple[int, ...]]:
        return {"weight_identity": (c, d), "weight_transpose": (c, d)}

    def factors(c: int, d: int, maps: int) -> dict[str, tuple[int, ...]]:
        of_coefs = {"coefs00": (c, maps), "coefs01": (d, maps), "coefs10": (c, d), "coefs11": (c, d)}
        return {"T": (c,), **of_coefs, "affine": (2, c), "alpha": (c, 10), "diag_bias": (d,)}

    def both_of(d: int) -> dict[str, tuple[int, ...]]:
        return {"gamma": (d,), "beta": (d,)}

    parts: dict[str, tuple[int, ...]] = dict.fromkeys(("row", "col", "diag", "event"), (4,))
    act = {"activation": "leaky_relu", "negative_slope": 0.2}
    cases = []
    for name in ("complete", "self_loops", "large_event", "no_nodes", "no_events", "one_particle"):
        cases += [
            *(case("rank2_reduce", r, name, {"T": (3,)}, reduce=r) for r in ("sum", "mean", "max", "min")),
            case("rank2_broadcast", "all", name, parts),
            case("rank2_mix", "all", name, {"T": (3,), **weights(3, 4), **parts, "bias": (4,)}, **act),
            case("linear_2to2", "s", name, {"T": (3,), "coefs": (3, 4, 15), "bias": (4,), "diag_bias": (4,)}, nbar=3.0),
        ]
        cases += [
            case("pairwise_linear", "leaky", name, {"T": (3,), "w": (4, 3), "b": (4,)}, **act),
            case("pairwise_linear", "relu", name, {"T": (19,), "w": (35, 19)}, activation="relu"),
            case("pairwise_affine", "few", name, {"T": (3,), "scale": (3,), "shift": (3,)}),
        ]
    for name in ("complete", "large_event"):
        large = name == "large_event"  # finite differences of the other one are taken
        wide, out, most, nbar = (35, 60, 67, 20.0) if large else (3, 18, 19, 3.0)
        alphas: dict[str, tuple[int, ...]] = {"alpha0": (2, 10), "alpha1": (1, 2, 10, 1, 1)}
        both: dict[str, tuple[int, ...]] = {"coefs": (3, 2, 15), "weight": ()}
        inner = {"aggregate_activation": "leaky_relu", "nbar": 3.0}
        layer: dict[str, tuple[int, ...]] = {"T": (3,), "coefs": (3, 4, 15), "bias": (4,), "diag_bias": (4,)}
        to_one: dict[str, tuple[int, ...]] = {"T": (3,), "coefs": (3, 2, 5), "alpha": (3, 5), "weight": ()}
        to_event: dict[str, tuple[int, ...]] = {"T": (3,), "coefs": (3, 2, 4), "bias": (2,)}
        one_letter: dict[str, tuple[int, ...]] = {"T": (3,), "coefs": (3, 2, 2), "bias": (2,), "affine": (2, 3)}
        cases += [
            *(
                case("rank2_reduce", f"weighted_{r}", name, {"T": (5,), "weight": ()}, reduce=r)
                for r in ("sum", "mean")
            ),
            *(case("rank2_reduce", f"wide_{r}", name, {"T": (most,)}, reduce=r) for r in ("sum", "max")),
            case("rank2_broadcast", "one_channel", name, {"row": (1,), "col": (1,)}),
            case("rank2_mix", "wide", name, {"T": (wide,), **weights(wide, out), "diag": (out,)}, activation="relu"),
            case("rank2_mix", "identity", name, {"T": (2,), "weight_identity": (2, 21)}),
            case("rank2_mix", "transpose", name, {"T": (17,), "weight_transpose": (17, 1), "col": (1,)}, **act),
            case("linear_2to2", "M", name, {"T": (3,), "coefs": (3, 2, 15), "alpha": (3, 10)}, config="M", nbar=nbar),
            case(
                "linear_2to2",
                "scaled",
                name,
                {**layer, "affine": (2, 3), "alpha": (3, 10)},
                config="S",
                **act,
            ),
            case("linear_2to2", "scaled_max", name, {**layer, "affine": (2, 3)}, config="x"),
            case("linear_2to2", "wide", name, {"T": (most,), "coefs": (most, out, 15), "bias": (out,)}, **act),
            case("linear_2to2", "SxmN", name, {"T": (2,), "coefs": (2, 1, 45), **alphas}, config="SxmN", nbar=nbar),
            case("linear_2to2", "weighted", name, {"T": (3,), **both}, config="m", nbar=3.0),
            case("linear_2to2", "inner", name, {"T": (3,), "coefs": (3, 2, 15)}, **act, **inner),
            case("linear_2to2", "factors", name, factors(3, 4, 15), config="S", nbar=nbar, **act),
            case("linear_2to2", "some", name, {"T": (3,), "coefs": (3, 2, 4), "affine": (2, 3)}, maps=(1, 2, 8, 15)),
            case("linear_2to2", "some_factors", name, factors(3, 2, 3), config="S", maps=(2, 7, 14)),
            case("linear_2to2", "some_of_many", name, {"T": (2,), "coefs": (2, 1, 3)}, config="sx", maps=(2, 7, 25)),
            case("linear_2to1", "s", name, {"T": (3,), "coefs": (3, 2, 5), "bias": (2,), "weight": ()}, **inner),
            case("linear_2to0", "s", name, {"T": (3,), "coefs": (3, 4, 2), "bias": (4,)}, nbar=nbar, **act),
            case("linear_2to0", "M", name, {**one_letter, "alpha": (3, 2)}, config="M", **act, **inner),
            case("linear_2to0", "S", name, {"T": (3,), "coefs": (3, 5, 2), "alpha": (3, 2)}, config="S", nbar=nbar),
            case("linear_2to0", "wide", name, {"T": (most,), "coefs": (most, out, 1)}, maps=(2,)),
            case(
                "pairwise_network",
                "batch",
                name,
                {"T": (3,), "w": (4, 3), "b": (4,), **both_of(4)},
                of_batch=True,
                **act,
            ),
            case("pairwise_network", "running", name, {"T": (3,), "w": (4, 3), **both_of(4)}, of_batch=False, **act),
            case("pairwise_network", "bare", name, {"T": (3,), "w": (19, 3)}, of_batch=True, activation="relu"),
            case("pairwise_network", "norm", name, {"T": (most,), **both_of(most)}, of_batch=True),
            case("pairwise_network", "running_norm", name, {"T": (2,), "beta": (2,)}, of_batch=False),
            case("linear_2to1", "scaled", name, {**to_one, "affine": (2, 3)}, config="M", **act),
            case("linear_2to0", "scaled", name, {**to_event, "affine": (2, 3)}, config="ms", nbar=3.0),
            case("linear_2to0", "scaled_max", name, {**to_event, "affine": (2, 3)}, config="xs", nbar=3.0),
            case("linear_2to1", "X", name, {"T": (3,), "coefs": (3, 2, 5), "alpha": (3, 5)}, config="X", **act),
            case("linear_2to0", "Ms", name, {"T": (3,), "coefs": (3, 2, 4), "alpha": (3, 2)}, config="Ms", **inner),
            case("linear_1to2", "M", name, {"x": (3,), "coefs": (3, 2, 5), "bias": (2,), "alpha": (3, 5)}, config="M"),
            case("linear_1to2", "s", name, {"x": (3,), "coefs": (3, 2, 5), "diag_bias": (2,)}, nbar=nbar, **act),
            case("linear_1to2", "S", name, {"x": (2,), "coefs": (2, 9, 5), "alpha": (2, 5)}, config="S", nbar=nbar),
            case("linear_1to2", "inner", name, {"x": (3,), "coefs": (3, 2, 5)}, **act, **inner),
            case("linear_1to2", "some", name, {"x": (most,), "coefs": (most, out, 2), "bias": (out,)}, maps=(2, 5)),
            case("aggregate_2to2", "M", name, {"T": (1,), "alpha": (1, 10)}, config="M", nbar=3.0),
            case("aggregate_2to1", "m", name, {"T": (2,), "weight": ()}, config="m"),
            case("aggregate_2to0", "xn", name, {"T": (2,)}, config="xn"),
            case("aggregate_1to2", "S", name, {"x": (2,), "alpha": (2, 5)}, config="S", nbar=3.0),
        ]
        # Few channels: the kernels vectorise across pairs; the limit depends on the instruction set.
        for c, d in ((1, 1), (1, 3), (2, 2), (5, 3), (17, 1)):
            mixed = {"T": (c,), **weights(c, d), "row": (d,), "col": (d,), "diag": (d,)}
            cases.append(case("rank2_mix", f"few_{c}_{d}", name, mixed, activation="relu"))
        for c in (1, 2, 5):
            cases += [
                case("rank2_reduce", f"few_{c}", name, {"T": (c,)}),
                case("rank2_broadcast", f"few_{c}", name, {"row": (c,), "col": (c,), "diag": (c,)}),
            ]
        for c in (1, 17):
            cases += [
                case("pairwise_affine", f"of_{c}", name, {"T": (c,), "scale": (c,), "shift": (c,)}),
            ]
    return cases
