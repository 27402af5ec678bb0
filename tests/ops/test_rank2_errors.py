"""Bad input to the ops on pairs: every error names the op and the argument."""

from __future__ import annotations

import pytest
import torch

import equikernels as ek

PTR = torch.tensor([0, 3, 3, 4, 9, 11])
NODES, PAIRS, EVENTS = 11, 9 + 1 + 25 + 4, 5
W = torch.ones(3, 2, 15)
NORM = ek.PairNorm(torch.ones(3), None, None, None, 1e-5, of_batch=True)
ERRORS = [
    (lambda T: ek.rank2_reduce(T[1:], PTR), "rank2_reduce: T: expected 39 rows"),
    (lambda T: ek.rank2_reduce(T[0], PTR), r"rank2_reduce: T: expected shape \[n_pairs, C\]"),
    (lambda T: ek.rank2_reduce(T, PTR, "prod"), "rank2_reduce: reduce: expected one of"),
    (lambda T: ek.rank2_reduce(T, PTR, "max", weight=torch.ones(11)), "rank2_reduce: weight: expected"),
    (lambda T: ek.rank2_reduce(T, PTR.flip(0)), "ptr: expected a first entry of 0"),
    (lambda T: ek.rank2_reduce(T, PTR.int()), "ptr: expected dtype int64"),
    (lambda T: ek.rank2_reduce(T.half(), PTR), "T: expected dtype float32 or float64"),
    (lambda T: ek.rank2_reduce(T, ek.Graph.from_edge_index(torch.zeros(2, 39).long(), 11)), "ptr: expected offsets"),
    (lambda T: ek.rank2_broadcast(ptr=PTR), "rank2_broadcast: row: expected a tensor"),
    (lambda T: ek.rank2_broadcast(T[:11], col=T[:10], ptr=PTR), r"rank2_broadcast: col: expected shape \[11, 3\]"),
    (lambda T: ek.rank2_mix(T, PTR), "rank2_mix: weight_identity: expected a tensor"),
    (lambda T: ek.rank2_mix(T, PTR, torch.ones(4, 2)), r"rank2_mix: weight_identity: expected shape \[3, D\]"),
    (lambda T: ek.rank2_mix(T, PTR, torch.ones(3, 2), activation="silu"), "rank2_mix: activation: expected one of"),
    (lambda T: ek.rank2_mix(T, PTR, torch.ones(3, 2), activation="leaky_relu", negative_slope=-1), "negative_slope"),
    (
        lambda T: ek.linear_2to2(T, PTR, W, how=ek.Aggregation("q")),
        "linear_2to2: config: expected letters",
    ),
    (
        lambda T: ek.linear_2to2(T, PTR, W, how=ek.Aggregation("M")),
        "linear_2to2: alphas: expected 1 tensors",
    ),
    (
        lambda T: ek.linear_2to2(T, PTR, W, how=ek.Aggregation("sm")),
        r"coefs: expected shape \[3, D, 25\]",
    ),
    (lambda T: ek.linear_2to2(T, ek.PairBatch(PTR, torch.ones(11)), W, how=ek.Aggregation("x")), "weight: expected"),
    (lambda T: ek.linear_2to1(T, PTR, W, how=ek.Aggregation("sm")), "linear_2to1: config: expected one letter"),
    (
        lambda T: ek.linear_2to2(T, PTR, W, how=ek.Aggregation(maps=(2, 1))),
        "maps: expected rising numbers",
    ),
    (lambda T: ek.linear_2to2(T, PTR, W, how=ek.Aggregation(maps=(1, 16))), "maps: expected rising numbers"),
    (lambda T: ek.linear_2to2(T, PTR, W, how=ek.Aggregation(maps=(1, 2))), r"coefs: expected shape \[3, D, 2\]"),
    (lambda T: ek.linear_2to2(T, PTR, (W[:, 0], W[0], W[..., 0])), "coefs: expected a tensor or four factors"),
    (lambda T: ek.linear_2to2(T, PTR, (W[:, 0], W[0], W[..., 0], W[0])), r"coefs\[3\]: expected shape \[3, 2\]"),
    (lambda T: ek.linear_2to2(T, PTR, W, affine=torch.ones(3)), r"affine: expected shape \[2, 3\]"),
    (lambda T: ek.pairwise_network(T[:1], None, None, NORM), "pairwise_network: T: expected at least two rows"),
    (lambda T: ek.pairwise_network(T, None, torch.ones(3), NORM), "bias: expected None without a weight"),
    (lambda T: ek.pairwise_network(T, None, None, NORM, activation="relu"), "activation: expected 'identity'"),
    (lambda T: ek.pairwise_network(T, torch.ones(2, 3), None, NORM), r"norm.weight: expected shape \[2\]"),
    (lambda T: ek.pairwise_network(T, None, None, NORM._replace(of_batch=False)), "norm.running_mean: expected a tens"),
    (lambda T: ek.linear_1to2(T, PTR, torch.ones(3, 2, 5)), "x"),
    (lambda T: ek.pack_pairs(T, torch.ones(2, 2).bool()), "pack_pairs: padded: expected shape"),
    (lambda T: ek.unpack_pairs(T, PTR, 4), "unpack_pairs: max_length: expected at least 5"),
    (lambda T: ek.unpack_pairs(T[1:], PTR), "unpack_pairs: packed: expected 39 rows"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[m for _, m in ERRORS])
def test_errors_name_the_argument(call: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(torch.randn(PAIRS, 3))  # type: ignore[operator]


TABLE = torch.cat([PTR, torch.tensor([0]), (PTR.diff() ** 2).cumsum(0)])
SIZES = [NODES, EVENTS, 0]
LINEAR = [(torch.ops.equikernels.linear_2to2, W), (torch.ops.equikernels.linear_2to0, W[..., :2])]


def test_the_op_checks_what_python_could_not() -> None:
    for rows, nodes in ((PAIRS - 1, NODES), (PAIRS, NODES + 1)):
        with pytest.raises(RuntimeError, match="rank2"):
            torch.ops.equikernels.rank2_sum(torch.randn(rows, 2), None, None, TABLE, rows, 2, nodes)
    for rows, ints in ((PAIRS - 1, SIZES), (PAIRS, [NODES + 1, *SIZES[1:]]), (PAIRS, [NODES, EVENTS + 1, 0])):
        for op, coefs in LINEAR:
            with pytest.raises(RuntimeError, match=r"rank2|graph"):
                op([torch.randn(rows, 3), None, coefs, *[None] * 7], TABLE, rows, 2, ints, [49.0, 1.0, 1.0])


def test_a_direct_call_is_checked() -> None:
    for op, coefs in LINEAR:
        for tensors in ([None, coefs, *[None] * 7], [torch.randn(PAIRS - 1, 3), None, coefs, *[None] * 7]):
            with pytest.raises(RuntimeError, match=r"unexpected (sizes|shape)"):
                op(tensors, TABLE, PAIRS, 2, SIZES, [49.0, 1.0, 1.0])
    layer = [torch.randn(PAIRS, 3), None, W, *[None] * 7]
    with pytest.raises(RuntimeError, match="unexpected sizes"):
        torch.ops.equikernels.rows_network(layer, TABLE, PAIRS, 3, [0], [1.0, 0.0])
