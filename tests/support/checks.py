"""Checks of a case that every backend passes, the emulated ones included."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import equikernels as ek

from .cases import Case, Inputs
from .tools import cotangent_for, reference, value_and_grads

Formula = Callable[[Case, Inputs, ek.Graph], Tensor]


def check_bad_values(case: Case, bad: float, formula: Formula = reference, gradients: bool = True) -> None:
    """A bad value in the first row of an input stays where the formula has it; the rest is as exact as ever."""
    graph = case.graph()
    for name in case.inputs():
        inputs = case.inputs(torch.float32)
        inputs[name][0] = bad
        if gradients:  # which do not read or write out of bounds
            value_and_grads(lambda i: case.run(i, graph), inputs, cotangent_for(case.run(inputs, graph)))
        result, expected = case.run(inputs, graph), formula(case, inputs, graph)
        finite = expected.isfinite()
        if name in case.folded and math.isinf(bad):
            known = ~result.isnan()
            assert torch.equal(result[known].isfinite(), finite[known]), name
            finite &= known
        else:
            assert torch.equal(result.isnan(), expected.isnan()), name
            infinite = expected.isinf()
            assert torch.equal(result[infinite], expected[infinite]), name
        largest = expected[finite].abs().max().item() if finite.any() else 0.0
        torch.testing.assert_close(result[finite], expected[finite], rtol=1.3e-6, atol=max(1e-5, 1e-6 * largest))


def check_non_contiguous(case: Case, dtype: torch.dtype = torch.float64) -> None:
    """Inputs that lie otherwise in memory, also rows that are all the same one, change nothing."""
    graph = case.graph()
    inputs = case.inputs(dtype)
    expected = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent_for(case.run(inputs, graph)))
    views = {
        "transposed": {n: t.t().contiguous().t() if t.dim() == 2 else t for n, t in inputs.items()},
        "sliced": {n: torch.stack([t, -t], dim=-1)[..., 0] for n, t in inputs.items()},
    }
    for what, strided in views.items():
        leaves = {n: t.detach().requires_grad_() for n, t in strided.items()}
        out = case.run(leaves, graph)
        torch.testing.assert_close(out, expected[0], msg=what)
        grads = torch.autograd.grad(out, list(leaves.values()), cotangent_for(out).to(dtype))
        for g, e in zip(grads, expected[1:], strict=True):
            torch.testing.assert_close(g, e, msg=what)
    row = {n: t[:1].expand_as(t) for n, t in inputs.items()}
    torch.testing.assert_close(case.run(row, graph), case.run({n: t.clone() for n, t in row.items()}, graph))
