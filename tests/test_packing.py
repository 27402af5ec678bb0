"""Tests packing and unpacking of padded, listed, ragged and nested events."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import equikernels as ek

MASKS = {
    "left_aligned": [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]],
    "scattered": [[0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 1, 0]],
    "empty_events": [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]],
    "all_empty": [[0, 0, 0, 0], [0, 0, 0, 0]],
}


def mask_named(name: str) -> Tensor:
    return torch.tensor(MASKS[name], dtype=torch.bool)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("tail", [(), (3,), (2, 3)])
@pytest.mark.parametrize("known", [False, True])
def test_pack_keeps_real_rows_in_order(name: str, tail: tuple[int, ...], known: bool) -> None:
    mask = mask_named(name)
    padded = torch.randn(*mask.shape, *tail)
    packed, ptr = ek.pack(padded, mask, num_rows=int(mask.sum()) if known else None)
    assert ptr.dtype == torch.int64
    assert ptr.tolist() == [0, *mask.sum(1).cumsum(0).tolist()]
    assert packed.shape == (int(mask.sum()), *tail)
    for b in range(mask.shape[0]):
        assert torch.equal(packed[ptr[b] : ptr[b + 1]], padded[b][mask[b]])


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("max_length", [None, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_unpack_then_pack_is_identity(name: str, max_length: int | None, dtype: torch.dtype) -> None:
    mask = mask_named(name)
    packed, ptr = ek.pack(torch.randn(*mask.shape, 3).mul(10).to(dtype), mask)
    padded, aligned = ek.unpack(packed, ptr, max_length)
    assert padded.dtype == dtype
    length = int(mask.sum(1).max()) if max_length is None else max_length
    assert padded.shape == (mask.shape[0], length, 3)
    assert torch.equal(aligned, torch.arange(length) < mask.sum(1, keepdim=True))
    assert not padded[~aligned].any()
    again, ptr_again = ek.pack(padded, aligned)
    assert torch.equal(again, packed)
    assert torch.equal(ptr_again, ptr)


def test_empty_batch() -> None:
    packed, ptr = ek.pack(torch.empty(0, 5, 4), torch.empty(0, 5, dtype=torch.bool))
    assert packed.shape == (0, 4)
    assert ptr.tolist() == [0]
    padded, mask = ek.unpack(packed, ptr)
    assert padded.shape == (0, 0, 4)
    assert mask.shape == (0, 0)
    assert ek.unpack_list(packed, ptr) == []


def test_padding_may_hold_anything() -> None:
    mask = mask_named("scattered")
    padded = torch.where(mask.unsqueeze(2), 1.0, torch.nan).expand(-1, -1, 4).clone().requires_grad_()
    packed, _ = ek.pack(padded, mask)
    packed.sum().backward()
    assert packed.isfinite().all()
    assert torch.equal(padded.grad, mask.unsqueeze(2).expand(-1, -1, 4).float())


@pytest.mark.parametrize("name", ["scattered", "empty_events"])
def test_gradients(name: str) -> None:
    mask = mask_named(name)
    padded = torch.randn(*mask.shape, 2, dtype=torch.float64, requires_grad=True)
    packed, ptr = ek.pack(padded.detach(), mask)
    packed.requires_grad_()
    rows = int(ptr[-1])
    counts = ptr.diff().tolist()
    functions = [
        (lambda t: ek.pack(t, mask)[0], padded),
        (lambda t: ek.pack(t, mask, num_rows=rows)[0], padded),
        (lambda t: ek.unpack(t, ptr, 6)[0], packed),
        (lambda t: ek.pack_list(t.split(counts))[0], packed),
        (lambda t: torch.cat(ek.unpack_list(t, ptr)), packed),
    ]
    for function, leaf in functions:
        assert torch.autograd.gradcheck(function, (leaf,))
        assert torch.autograd.gradgradcheck(function, (leaf,))
    # torch's nested tensors have no second derivatives
    assert torch.autograd.gradcheck(lambda t: ek.pack_nested(ek.unpack_nested(t, ptr).sin())[0], (packed,))


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 3), st.booleans())
def test_all_forms_agree(counts: list[int], extra: int, flat: bool) -> None:
    ptr = torch.tensor([0, *torch.tensor(counts, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int64)
    packed = torch.randn(int(ptr[-1]), *(() if flat else (4,)))
    padded, mask = ek.unpack(packed, ptr, max([*counts, 0]) + extra)
    forms = [ek.pack(padded, mask)]
    if counts:
        forms.append(ek.pack_list(ek.unpack_list(packed, ptr)))
        forms.append(ek.pack_nested(ek.unpack_nested(packed, ptr)))
    for again, ptr_again in forms:
        assert torch.equal(again, packed)
        assert torch.equal(ptr_again, ptr)


def test_nested_layouts() -> None:
    events = [torch.randn(n, 4) for n in (3, 1, 5)]
    expected = torch.cat(events)
    jagged = torch.nested.nested_tensor(events, layout=torch.jagged)
    strided = torch.nested.nested_tensor(events, layout=torch.strided)
    padded, mask = ek.unpack(expected, torch.tensor([0, 3, 4, 9]))
    holes = torch.nested.narrow(padded, 1, torch.zeros(3, dtype=torch.int64), mask.sum(1), layout=torch.jagged)
    assert holes.lengths() is not None
    for nested in (jagged, strided, holes):
        packed, ptr = ek.pack_nested(nested)
        assert torch.equal(packed, expected)
        assert ptr.tolist() == [0, 3, 4, 9]
    assert ek.pack_nested(jagged)[0].data_ptr() == jagged.values().data_ptr()
    with pytest.raises(ValueError, match="pack_nested: nested: expected events ragged in dimension 1"):
        ek.pack_nested(jagged.transpose(1, 2))
    with pytest.raises(TypeError, match="pack_nested: nested: expected a nested tensor"):
        ek.pack_nested(expected)


def test_awkward_arrays() -> None:
    ak = pytest.importorskip("awkward")
    packed, ptr = torch.arange(24.0, dtype=torch.float64).reshape(6, 4), torch.tensor([0, 2, 2, 6])
    array = ek.unpack_awkward(packed.requires_grad_(), ptr)
    packed = packed.detach()
    assert str(array.type) == "3 * var * 4 * float64"
    assert array.to_list() == [packed[:2].tolist(), [], packed[2:].tolist()]
    names = ("E", "px", "py", "pz")
    record = ak.zip({name: array[:, :, c] for c, name in enumerate(names)})
    for again, ptr_again in (ek.pack_awkward(array), ek.pack_awkward(record, names)):
        assert torch.equal(again, packed)
        assert torch.equal(ptr_again, ptr)
    swapped, _ = ek.pack_awkward(record, ("pz", "E"))
    assert torch.equal(swapped, packed[:, [3, 0]])
    energies, _ = ek.pack_awkward(ak.values_astype(array[:, :, 0], "float32"))
    assert torch.equal(energies, packed[:, 0].float())
    sliced, ptr_sliced = ek.pack_awkward(array[1:])  # offsets that do not start at 0
    assert torch.equal(sliced, packed[2:])
    assert ptr_sliced.tolist() == [0, 0, 4]
    sliced.zero_()  # a copy: the array is left alone
    assert array.to_list()[2] == packed[2:].tolist()
    with pytest.raises(ValueError, match=r"pack_awkward: fields: expected names of columns, from E, px, py, pz"):
        ek.pack_awkward(record)
    with pytest.raises(ValueError, match="pack_awkward: fields: expected names from E, px, py, pz, got eta"):
        ek.pack_awkward(record, ("eta",))
    with pytest.raises(ValueError, match="pack_awkward: array: expected events of rows"):
        ek.pack_awkward(ak.Array([1.0, 2.0]))


def test_compiles_with_changing_sizes() -> None:
    def there_and_back(packed: Tensor, ptr: Tensor, length: int) -> Tensor:
        padded, mask = ek.unpack(packed, ptr, length, validate=False)
        return ek.pack(padded * 2, mask, num_rows=packed.shape[0])[0]

    compiled = torch.compile(there_and_back, fullgraph=True, dynamic=True, backend="aot_eager")
    for counts in ([3, 0, 2], [5, 1], [4, 4, 4, 1]):
        ptr = torch.tensor([0, *counts]).cumsum(0)
        packed = torch.randn(sum(counts), 4, requires_grad=True)
        out = compiled(packed, ptr, max(counts) + 1)
        assert torch.equal(out, packed * 2)
        (grad,) = torch.autograd.grad(out.sum(), packed)
        assert torch.equal(grad, torch.full_like(packed, 2))


PTR = torch.tensor([0, 2, 3])
ROWS = torch.zeros(3, 4)
ERRORS = [
    (lambda: ek.pack([[0.0]], torch.ones(1, 1, dtype=torch.bool)), TypeError, "pack: padded: expected a tensor"),
    (
        lambda: ek.pack(torch.zeros(2, 3, 4), torch.ones(2, 3)),
        TypeError,
        "pack: mask: expected dtype bool, got float32",
    ),
    (
        lambda: ek.pack(torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool)),
        ValueError,
        r"pack: padded: expected shape \[2, 4, ...\], got \[2, 3, 4\]",
    ),
    (
        lambda: ek.pack(torch.zeros(2, 3, device="meta"), torch.ones(2, 3, dtype=torch.bool)),
        ValueError,
        "pack: padded: expected device cpu, got meta",
    ),
    (lambda: ek.unpack(ROWS, PTR.int()), TypeError, "unpack: ptr: expected dtype int64, got int32"),
    (lambda: ek.unpack(ROWS, PTR[:0]), ValueError, "unpack: ptr: expected at least one entry"),
    (lambda: ek.unpack(ROWS, PTR + 1), ValueError, "unpack: ptr: expected a first entry of 0, got 1"),
    (lambda: ek.unpack(ROWS, PTR[:2]), ValueError, "unpack: ptr: expected a last entry of 3, got 2"),
    (
        lambda: ek.unpack(ROWS, torch.tensor([0, 4, 3])),
        ValueError,
        "unpack: ptr: expected entries that do not",
    ),
    (lambda: ek.unpack(ROWS, PTR, 1), ValueError, "unpack: max_length: expected at least 2, the longest event, got 1"),
    (lambda: ek.unpack(ROWS[0, 0], PTR), ValueError, r"unpack: packed: expected shape \[n_total, ...\]"),
    (lambda: ek.unpack_list(ROWS, PTR[:2]), ValueError, "unpack_list: ptr: expected a last entry of 3"),
    (lambda: ek.unpack_nested(ROWS, PTR[:2]), ValueError, "unpack_nested: ptr: expected a last entry of 3"),
    (lambda: ek.pack_list([]), ValueError, "pack_list: events: expected at least one event"),
    (
        lambda: ek.pack_list([torch.zeros(2, 4), torch.zeros(2, 3)]),
        ValueError,
        r"pack_list: events\[1\]: expected shape \[n, 4\], got \[2, 3\]",
    ),
    (
        lambda: ek.pack_list([torch.zeros(2, 4), torch.zeros(2, 4).double()]),
        TypeError,
        r"pack_list: events\[1\]: expected dtype float32, got float64",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message[:40] for _, _, message in ERRORS])
def test_errors_name_the_argument(call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
