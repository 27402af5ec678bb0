"""Rank-2 ops against index notation, event by event, in float64; ties, padding, equivariance, memory, errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.pairs import basis
from equikernels.published import pelican

from ..support.tools import value_and_grads

PTR = torch.tensor([0, 3, 3, 4, 9, 11])
NODES, PAIRS, EVENTS = 11, 9 + 1 + 25 + 4, 5
CONFIGS = ["s", "m", "x", "n", "S", "M", "X", "N", "sMxn", "XN", "Sm"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def events(T: Tensor, ptr: Tensor = PTR) -> Iterator[Tensor]:
    """Each event's T [n, n, C]."""
    counts = ptr.diff().tolist()
    for block, n in zip(T.split([n * n for n in counts]), counts, strict=True):
        yield block.view(n, n, *T.shape[1:])


def aggregate(x: Tensor, dims: tuple[int, ...], letter: str, n: int, nbar: float) -> Tensor:
    if letter in "sm":
        return x.sum(dims) / (nbar if letter == "s" else max(n, 1)) ** len(dims)
    if n == 0:
        return x.new_zeros([size for d, size in enumerate(x.shape) if d not in dims])
    return x.amax(dims) - math.log(n) if letter == "x" else x.amin(dims) + math.log(n)


def aggregates(X: Tensor, letter: str, nbar: float, w: Tensor | None) -> tuple[Tensor, ...]:
    """R, C [n, C], Tr, S [C] of one event."""
    n = X.shape[0]
    w = torch.ones(n, dtype=X.dtype) if w is None else w
    D = torch.einsum("iic->ic", X)
    return (
        aggregate(X * w[None, :, None], (1,), letter, n, nbar),
        aggregate(X * w[:, None, None], (0,), letter, n, nbar),
        aggregate(D * w[:, None], (0,), letter, n, nbar),
        aggregate(X * w[None, :, None] * w[:, None, None], (0, 1), letter, n, nbar),
    )


def factors(alpha: Tensor | None, n: int, nbar: float, maps: int) -> list[Tensor | float]:
    return [1.0] * maps if alpha is None else [(max(n, 1) / nbar) ** alpha[:, k] for k in range(maps)]


def basis_2to2(T: Tensor, config: str, nbar: float, alphas: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
    """Every map written out: i is the first index, j the second."""
    out = []
    weights = [None] * EVENTS if weight is None else weight.split(PTR.diff().tolist())
    for X, w in zip(events(T), weights, strict=True):
        n = X.shape[0]
        delta = torch.eye(n, dtype=X.dtype)
        D, one = torch.einsum("iic->ic", X), torch.ones(n, n, dtype=X.dtype)

        def at(indices: str, x: Tensor, where: Tensor) -> Tensor:
            return torch.einsum(f"{indices},ij->ijc", x, where)

        ops = [X, torch.einsum("jic->ijc", X), at("ic", D, delta), at("jc", D, one), at("ic", D, one)]
        rest = iter(alphas)
        for letter in config:
            R, C, Tr, S = aggregates(X, letter.lower(), nbar, w)
            f = factors(next(rest) if letter.isupper() else None, n, nbar, 10)
            of_letter = [
                at("ic", C, delta), at("jc", C, one), at("ic", C, one),
                at("ic", R, delta), at("jc", R, one), at("ic", R, one),
                at("c", Tr, one), at("c", Tr, delta), at("c", S, one), at("c", S, delta),
            ]  # fmt: skip
            ops += [x * g for x, g in zip(of_letter, f, strict=True)]
        out.append(torch.stack(ops, -1).flatten(0, 1))
    return torch.cat(out)


def alphas_for(config: str, channels: int, maps: int) -> list[Tensor]:
    return [randn(channels, maps, seed=50 + k) for k, c in enumerate(config) if c.isupper()]


@pytest.mark.parametrize("config", CONFIGS)
def test_2to2_is_the_basis_and_its_map(config: str) -> None:
    T, alphas = randn(PAIRS, 3), alphas_for(config, 3, 10)
    expected = basis_2to2(T, config, 6.0, alphas)
    how = ek.Aggregation(config, 6.0, alphas)
    got = basis.aggregate_2to2(T, PTR, how)
    torch.testing.assert_close(got, expected)
    coefs, bias, diag_bias = randn(3, 4, expected.shape[2], seed=1), randn(4, seed=2), randn(4, seed=3)
    out = ek.linear_2to2(T, PTR, coefs, bias, diag_bias, how)
    diagonal = torch.cat([torch.eye(n, dtype=T.dtype).flatten() for n in PTR.diff().tolist()])
    mixed = torch.einsum("pcb,cdb->pd", expected, coefs) + bias
    torch.testing.assert_close(out, mixed + diagonal[:, None] * diag_bias)
    how = how._replace(activation="leaky_relu")
    out = ek.linear_2to2(T, PTR, coefs, how=how, activation="leaky_relu", negative_slope=0.01)
    leaky = torch.nn.functional.leaky_relu
    torch.testing.assert_close(out, leaky(torch.einsum("pcb,cdb->pd", leaky(expected), coefs)))


@pytest.mark.parametrize("config", ["s", "m", "M"])
def test_weights_multiply_every_summand(config: str) -> None:
    T, weight, alphas = randn(PAIRS, 3), randn(NODES, seed=4), alphas_for(config, 3, 10)
    expected = basis_2to2(T, config, 6.0, alphas, weight)
    got = basis.aggregate_2to2(T, ek.PairBatch(PTR, weight), ek.Aggregation(config, 6.0, alphas))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("config", ["s", "m", "x", "n", "S", "M", "X", "N"])
def test_maps_from_and_to_lower_ranks(config: str) -> None:
    T, x, nbar = randn(PAIRS, 3), randn(NODES, 3, seed=5), 6.0
    (five,) = alphas_for(config, 3, 5) or [None]
    (two,) = alphas_for(config, 3, 2) or [None]
    to1, to0, from1 = [], [], []
    for X, v in zip(events(T), x.split(PTR.diff().tolist()), strict=True):
        n = X.shape[0]
        R, C, Tr, S = aggregates(X, config.lower(), nbar, None)
        f = factors(five, n, nbar, 5)
        ops = [torch.einsum("iic->ic", X), R, C, Tr.expand(n, 3), S.expand(n, 3)]
        to1.append(torch.stack([o * g for o, g in zip(ops, f, strict=True)], -1))
        to0.append(torch.stack([o * g for o, g in zip([S, Tr], factors(two, n, nbar, 2), strict=True)], -1))
        total = aggregate(v, (0,), config.lower(), n, nbar).expand(n, n, 3)
        delta = torch.eye(n, dtype=T.dtype)[:, :, None]
        ops = [delta * v[:, None], v.expand(n, n, 3), v[:, None].expand(n, n, 3), delta * total, total]
        from1.append(torch.stack([o * g for o, g in zip(ops, f, strict=True)], -1).flatten(0, 1))
    with_five, with_two = (ek.Aggregation(config, nbar, [] if a is None else [a]) for a in (five, two))
    for aggregated, linear, source, expected, how in (
        (basis.aggregate_2to1, ek.linear_2to1, T, torch.cat(to1), with_five),
        (basis.aggregate_2to0, ek.linear_2to0, T, torch.stack(to0), with_two),
        (basis.aggregate_1to2, ek.linear_1to2, x, torch.cat(from1), with_five),
    ):
        torch.testing.assert_close(aggregated(source, PTR, how), expected)
        coefs, bias = randn(3, 4, expected.shape[2], seed=6), randn(4, seed=7)
        out = linear(source, PTR, coefs, bias, how=how)
        torch.testing.assert_close(out, torch.einsum("pcb,cdb->pd", expected, coefs) + bias)


@pytest.mark.parametrize("config", ["s", "M", "xN"])
def test_padded_to_is_what_the_published_code_does(config: str) -> None:
    size, channels = 7, 3
    T, alphas = randn(PAIRS, channels) - 1.5, alphas_for(config, channels, 10)  # many maxima are below zero
    padded, mask = ek.unpack_pairs(T, PTR, size)
    coefs = randn(channels, 4, 5 + 10 * len(config), seed=1)
    bias, diag_bias = randn(4, seed=2), randn(4, seed=3)
    filled = PTR.diff() > 0  # the published code divides by zero for an empty event
    dense = pelican.linear_2to2(padded[filled], mask[filled], coefs, bias, diag_bias, config, 6.0, alphas)
    layer = coefs, bias, diag_bias, ek.Aggregation(config, 6.0, alphas)
    out = ek.linear_2to2(T, ek.PairBatch(PTR, padded_to=size), *layer, activation="leaky_relu")
    torch.testing.assert_close(out, ek.pack_pairs(dense, mask[filled])[0])
    clean = ek.linear_2to2(T, PTR, *layer, activation="leaky_relu")
    assert torch.equal(clean, out) == (config in ("s", "M"))


def test_another_multiplicity() -> None:
    T, nobj = randn(PAIRS, 2), torch.tensor([2.0, 0.0, 1.0, 3.5, 2.0], dtype=torch.float64)
    per_pair = nobj.clamp(min=1).repeat_interleave(PTR.diff() ** 2)[:, None]
    sums = basis.aggregate_2to2(T, PTR, ek.Aggregation("s", 1.0))
    means = basis.aggregate_2to2(T, ek.PairBatch(PTR, nobj=nobj), ek.Aggregation("m"))
    torch.testing.assert_close(means[..., 5:13], sums[..., 5:13] / per_pair[..., None])
    torch.testing.assert_close(means[..., 13:], sums[..., 13:] / per_pair[..., None] ** 2)


@pytest.mark.parametrize("linear", [ek.linear_2to2, ek.linear_2to0])
@pytest.mark.parametrize("config", ["s", "m", "S", "M"])
@pytest.mark.parametrize("nobj", [[2.0, 0.0, 1.0, 3.5, 2.0], [7, 1, 0, 3, 2]], ids=["float", "int"])
def test_another_multiplicity_in_layers(linear: object, config: str, nobj: list[float], backend: str) -> None:
    maps = 15 if linear is ek.linear_2to2 else 2
    how = ek.Aggregation(config, 6.0, alphas_for(config, 3, 10 if maps == 15 else 2))
    inputs = {"T": randn(PAIRS, 3), "coefs": randn(3, 4, maps, seed=1), "affine": randn(2, 3, seed=2)}
    batch = ek.PairBatch(PTR, nobj=torch.tensor(nobj))

    def layer(inputs: dict[str, Tensor]) -> Tensor:
        return linear(**inputs, ptr=batch, how=how, activation="leaky_relu")  # type: ignore[operator]

    found = layer(inputs)
    found = value_and_grads(layer, inputs, torch.ones_like(found).cumsum(0))
    with ek.use_backend("reference"):
        exact = value_and_grads(layer, inputs, torch.ones_like(found[0]).cumsum(0))
    torch.testing.assert_close(found, exact)


def test_a_multiplicity_may_be_differentiated() -> None:
    T, coefs = randn(PAIRS, 2), randn(2, 3, 15, seed=1)
    nobj = torch.tensor([2.0, 1.5, 1.2, 3.5, 2.0], dtype=torch.float64, requires_grad=True)
    how = ek.Aggregation("M", 6.0, alphas_for("M", 2, 10))
    function = lambda nobj: ek.linear_2to2(T, ek.PairBatch(PTR, nobj=nobj), coefs, how=how)  # noqa: E731
    assert torch.autograd.gradcheck(function, nobj)


@pytest.mark.parametrize("given", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("linear", [False, True])
def test_every_part_of_a_norm_may_be_differentiated(given: str, linear: bool) -> None:
    T, weight = randn(6, 3), randn(3, 3, seed=1) if linear else None
    parts = {name: 1 + randn(3, seed=k).square() for k, name in enumerate(ek.PairNorm._fields[:4])}
    part = parts[given].requires_grad_()

    def affine(part: Tensor) -> Tensor:
        return ek.pairwise_network(T, weight, None, ek.PairNorm(**{**parts, given: part}, eps=0.1, of_batch=False))[1]

    assert torch.autograd.gradcheck(affine, part)
    assert torch.autograd.gradgradcheck(affine, part)


@pytest.mark.parametrize("reduce", ["max", "min"])
def test_of_equals_the_first_has_the_gradient(reduce: str, backend: str) -> None:
    T = torch.ones(9, 20, requires_grad=True)
    for outputs, place in (("rows", [0, 3, 6]), ("cols", [0, 1, 2])):
        rows, cols, _ = ek.rank2_reduce(T, torch.tensor([0, 3]), reduce)
        (grad,) = torch.autograd.grad((rows if outputs == "rows" else cols).sum(), T)
        expected = torch.zeros(9, 20)
        expected[place] = 1
        assert torch.equal(grad, expected)


def test_reduce_and_broadcast_are_adjoint() -> None:
    T, parts = randn(PAIRS, 5), [randn(NODES, 5, seed=k) for k in (1, 2, 3)]
    left = sum((a * b).sum() for a, b in zip(ek.rank2_reduce(T, PTR), parts, strict=True))
    torch.testing.assert_close(left, (T * ek.rank2_broadcast(*parts, ptr=PTR)).sum())


@pytest.mark.parametrize("config", ["sM", "xN"])
def test_permutation_equivariance(config: str) -> None:
    counts = PTR.diff().tolist()
    T, alphas = randn(PAIRS, 3), alphas_for(config, 3, 10)
    coefs = randn(3, 4, 25, seed=1)
    orders = [torch.randperm(n) for n in counts]

    def permuted(T: Tensor) -> Tensor:
        blocks = zip(events(T), orders, strict=True)
        return torch.cat([X[p][:, p].flatten(0, 1) for X, p in blocks])

    def layer(T: Tensor) -> Tensor:
        return ek.linear_2to2(T, PTR, coefs, how=ek.Aggregation(config, alphas=alphas), activation="leaky_relu")

    torch.testing.assert_close(layer(permuted(T)), permuted(layer(T)), rtol=1e-12, atol=1e-12)


def batch(sizes: Sequence[int]) -> ek.Graph:
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    return ek.Graph.complete(ptr, self_loops=True, num_edges=sum(n * n for n in sizes))


@pytest.mark.parametrize("config", ["s", "M", "X"])
def test_threads_change_no_bit(config: str, backend: str) -> None:
    pairs = batch([54, 3, 0, 27, 1, 40])
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "T": torch.randn(pairs.num_edges, 35, generator=generator),
        "coefs": torch.randn(35, 20, 15, generator=generator),
    }
    how = ek.Aggregation(config, alphas=[torch.rand(35, 10, generator=generator)] if config.isupper() else [])
    cotangent = torch.randn(pairs.num_edges, 20, generator=generator)

    def layer(inputs: dict[str, Tensor]) -> Tensor:
        return ek.linear_2to2(**inputs, ptr=pairs, how=how, activation="leaky_relu")

    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(value_and_grads(layer, inputs, cotangent))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def peak_bytes(step: object) -> int:
    """Peak memory of tensors made during the call."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step()  # type: ignore[operator]
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize("config", ["s", "sM", "x"])
def test_memory_grows_like_one_tensor_not_fifteen(config: str) -> None:
    channels = 8
    coefs = torch.randn(channels, channels, 5 + 10 * len(config), requires_grad=True)
    how = ek.Aggregation(config, alphas=[torch.rand(channels, 10) for c in config if c.isupper()])
    points = []
    for n in (24, 48):
        pairs = batch([n] * 4)
        T = torch.randn(pairs.num_edges, channels, requires_grad=True)
        cotangent = torch.randn(pairs.num_edges, channels)

        def step() -> None:
            out = ek.linear_2to2(T, pairs, coefs, how=how, activation="leaky_relu")  # noqa: B023
            torch.autograd.grad(out, (T, coefs), cotangent)  # noqa: B023

        step()
        points.append((pairs.num_edges * channels * 4, peak_bytes(step)))
    slope = (points[1][1] - points[0][1]) / (points[1][0] - points[0][0])
    # the output, the gradient of T and what is added to it, with what is left per particle
    assert 1 < slope < 4.5, slope


def test_pairs_come_and_go_padded() -> None:
    padded, mask = randn(3, 5, 5, 2), torch.rand(3, 5) > 0.4
    mask[1] = False
    packed, ptr = ek.pack_pairs(padded, mask)
    i = [[int(k) for k in row.nonzero()] for row in mask]
    expected = [padded[b, p, q] for b in range(3) for p in i[b] for q in i[b]]
    assert torch.equal(packed, torch.stack(expected))
    assert ptr.diff().tolist() == mask.sum(1).tolist()
    again, _ = ek.pack_pairs(*ek.unpack_pairs(packed, ptr, 6))
    assert torch.equal(again, packed)
    counted = ek.pack_pairs(padded, mask, num_pairs=packed.shape[0])[0]
    assert torch.equal(counted, packed)
    back, real = ek.unpack_pairs(packed, ek.Graph.complete(ptr))
    assert back.shape[1] == int(mask.sum(1).max())
    assert torch.equal(real.sum(1), mask.sum(1))
    assert back.sum().item() == pytest.approx(packed.sum().item())
