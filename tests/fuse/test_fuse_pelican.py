"""Tests fuse_ on published PELICAN layers: the same numbers, gradients and statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import published
from equikernels.fuse.pelican import batch_norm
from equikernels.fuse.swap import is_fused
from equikernels.published.pelican import Aggregators, MaskedBatchNorm, MessageLayer
from equikernels.published.pelican_hep import EdgeAggregators

from ..support.fused_pelican import NODES, assert_the_same, counted, edges, outcome, padded_batch, stack
from ..support.golden import filled, jets
from ..support.pelican import published_classifier
from ..support.tools import assert_as_good_as_eager

RANKS = ("2to2", "2to1", "1to2", "2to0")


@pytest.fixture(params=["sums", "shares"])
def norm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of the masked norm as published code has them: sums divided by n, or sums of shares 1 / n of each row."""
    if request.param == "shares":
        monkeypatch.setattr(MaskedBatchNorm, "average", lambda self, T, n: (T * (1 / n)).sum((0, 1, 2)))


def layer_batch(ranks: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, dict[str, Any]]:
    x, real, mask, nobj = padded_batch(dtype)
    masks = {"2": mask, "1": real[..., None], "0": None}
    return x if ranks[0] == "2" else x[:, 0], {"mask": masks[ranks[-1]], "nobj": nobj}


@pytest.mark.parametrize(
    ("ranks", "config"),
    [(ranks, letter) for ranks in RANKS for letter in "smxnSMXN"]
    + [(ranks, letters) for ranks in ("2to2", "2to0") for letters in ("sMxn", "Xs")],
)
def test_aggregators(ranks: str, config: str) -> None:
    x, batch = layer_batch(ranks)
    for factorize, activate_agg, activate_lin, cast in ((True, False, True, True), (False, True, False, False)):
        torch.manual_seed(1)
        options = {"factorize": factorize, "activate_agg": activate_agg, "activate_lin": activate_lin, "cast": cast}
        assert_the_same(Aggregators(ranks, 4, 3, config, **options).double(), x, **batch)


@pytest.mark.parametrize("ranks", RANKS)
def test_aggregators_in_float32(ranks: str) -> None:
    torch.manual_seed(1)
    module = Aggregators(ranks, 4, 3, "M")
    x, batch = layer_batch(ranks, torch.float32)
    names, eager = outcome(module, x, **batch)
    _, oracle = outcome(copy.deepcopy(module).double(), x.double(), **batch)
    _, ours = outcome(ek.fuse_(module), x, **batch)
    assert_as_good_as_eager(ours, eager, oracle, names, names[2:])


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("config", ["s", "M"])
def test_irc_weights_and_soft_masks(ranks: str, config: str) -> None:
    torch.manual_seed(1)
    module = Aggregators(ranks, 4, 3, config).double()
    x, batch = layer_batch(ranks)
    fused = assert_the_same(module, x, **batch, irc_weight=torch.rand(3, 5, dtype=torch.float64))
    if ranks != "2to0":
        soft = torch.randn(3, 1, 1, *[5] * int(ranks[-1]), dtype=torch.float64)
        assert_the_same(module, x, **batch, softmask_ir=soft)
        assert_the_same(module, x, **batch, softmask_ir=soft, irc_weight=torch.rand(3, 5, dtype=torch.float64))
    assert ek.unfuse_(fused) is fused
    assert not is_fused(fused)


def test_without_mask_or_multiplicity_and_other_activations() -> None:
    x, *_, nobj = padded_batch()
    for activation in (nn.GELU(), nn.ReLU(), nn.LeakyReLU(0.2), nn.PReLU()):
        torch.manual_seed(1)
        assert_the_same(Aggregators("2to2", 4, 3, "s", activation=activation).double(), x, nobj=nobj)
    module = Aggregators("2to2", 4, 3).double()
    fused = ek.fuse_(copy.deepcopy(module))
    torch.testing.assert_close(fused(x), module(x))


def test_what_has_no_fused_form_runs_as_before() -> None:
    torch.manual_seed(1)
    x, batch = layer_batch("2to2")
    weight = torch.rand(3, 5, dtype=torch.float64)
    assert_the_same(Aggregators("2to2", 4, 3, "sx").double(), x, **batch, irc_weight=weight, tolerance=1e-14)
    soft = torch.randn(3, 1, 1, 5, 5, dtype=torch.float64)
    module = Aggregators("2to2", 4, 3, "s", activate_agg=True).double()
    assert_the_same(module, x, **batch, softmask_ir=soft, tolerance=1e-14)


@pytest.mark.parametrize("widths", [[4, 6, 3], [4]])
def test_messages(widths: list[int], norm: None) -> None:
    torch.manual_seed(1)
    x, _, mask, _ = padded_batch()
    assert_the_same(MessageLayer(widths).double(), x, mask, tolerance=1e-10)
    odd = torch.rand(3, 5, 5, 1) < 0.5  # not a mask of pairs, which messages accept
    assert_the_same(MessageLayer([4, 3]).double(), x, odd, tolerance=1e-10)
    fused = ek.fuse_(MessageLayer([4, 3], batchnorm=None))
    assert fused(x.float()).shape == (3, 5, 5, 3)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("own_dtype", [False, True])
def test_batch_norm_is_that_of_torch(affine: bool, own_dtype: bool) -> None:
    for momentum, rows in ((0.1, 7), (None, 7), (0.1, 1)):
        torch.manual_seed(0)
        ours = nn.BatchNorm2d(3, momentum=momentum, affine=affine).double()
        theirs = nn.BatchNorm1d(3, momentum=momentum, affine=affine).double().train(rows > 1)
        for _ in range(2):
            T = torch.randn(rows, 3, dtype=torch.float64)
            torch.testing.assert_close(batch_norm(ours, T, own_dtype), theirs(T), rtol=1e-6, atol=1e-6)
        for a, b in zip(list(ours.buffers())[:2], theirs.buffers(), strict=False):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert int(ours.num_batches_tracked) == 2


@pytest.mark.parametrize("config", ["s", "Mx", "N"])
def test_stacks(config: str, norm: None) -> None:
    x, _, mask, nobj = padded_batch()
    for batchnorm, cast in (("b", False), ("b", True), (None, False)):
        torch.manual_seed(1)
        module = stack(batchnorm, config=config, factorize=True, cast=cast).double()
        assert_the_same(module, x, mask, nobj, tolerance=1e-10)
    if config == "s":
        assert_the_same(module, x, mask, nobj, irc_weight=torch.rand(3, 5, dtype=torch.float64), tolerance=1e-10)


def test_a_stack_in_float32() -> None:
    torch.manual_seed(1)
    x, _, mask, nobj = padded_batch(torch.float32)
    module = stack(config="M")
    oracle_module = copy.deepcopy(module).double()
    twin = ek.fuse_(copy.deepcopy(module))
    names, eager = outcome(module, x, mask, nobj)
    _, oracle = outcome(oracle_module, x.double(), mask, nobj)
    _, ours = outcome(twin, x, mask, nobj)
    keep = [k for k, name in enumerate(names) if "batches" not in name]
    pick = lambda values: [values[k] for k in keep]  # noqa: E731
    assert_as_good_as_eager(pick(ours), pick(eager), pick(oracle), pick(names), names[2:])


def test_a_stack_packs_once_and_leaves_other_masks_and_hooks_to_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, mask, nobj = padded_batch()
    model = nn.ModuleList([stack(), MessageLayer([4, 4])]).double().eval()
    own = copy.deepcopy(model)
    ek.fuse_(model)
    made = counted(monkeypatch, "_padded_rows")
    for _ in range(2):
        model[1](model[0](x, mask, nobj), mask)
    assert len(made) == 1
    mask[0, 0, 0] = False  # written to, and no longer one of pairs
    torch.testing.assert_close(model[0](x, mask, nobj), own[0](x, mask, nobj))
    assert len(made) == 2
    seen: list[Tensor] = []
    model[0].eq_layers[1].register_forward_hook(lambda m, args, out: seen.append(out))
    out = model[0](x, mask, nobj)
    assert torch.equal(seen[0], out)


@pytest.mark.parametrize(
    "make",
    [
        lambda: published_classifier(stabilizer="so2", config="sMxn", config_out="s"),
        lambda: published_classifier(config="XN", config_out="Sm"),
        lambda: published.PELICANNano(2),
    ],
)
def test_published_networks(make: Callable[[], nn.Module]) -> None:
    """Every layer runs fused."""
    own = filled(make())
    fused = ek.fuse_(copy.deepcopy(own))
    layers = [m for m in fused.modules() if isinstance(m, Aggregators | MessageLayer)]
    assert all(is_fused(layer) for layer in layers)
    inputs = ek.unpack(*jets(5, 4))
    for training in (False, True):
        torch.testing.assert_close(fused.train(training)(*inputs), own.train(training)(*inputs), rtol=1e-10, atol=1e-12)


class Unmasked(Aggregators):
    """Has the same attributes, but also returns its padding."""

    def forward(self, inputs: Tensor, mask: Any = None, nobj: Any = None, irc_weight: Any = None) -> Tensor:
        return super().forward(inputs, None, nobj, None, irc_weight)


class WithoutAlphas(Aggregators):
    """Has alphas and does not use them."""

    def forward(self, inputs: Tensor, mask: Any = None, nobj: Any = None) -> Tensor:
        config, self.config = self.config, self.config.lower()
        out = super().forward(inputs, mask, nobj)
        self.config = config
        return out


class Centred(EdgeAggregators):
    """The mean of the diagonal is over the diagonal."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _, batch = args
        maps = self.aggregator(self.ranks, x, *args, aggr=self.aggr)
        counts = torch.bincount(batch).to(x.dtype)
        maps = torch.stack([maps[..., 0], maps[..., 1] * counts[:, None]], -1).flatten(1)
        return maps @ self.coeffs.reshape(-1, maps.shape[1]).t()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Unmasked("2to2", 4, 3), "computes something else"),
        (lambda: WithoutAlphas("1to2", 4, 3, "M"), "computes something else"),
        (lambda: Aggregators("2to2", 4, 3, activate_agg=True, activation=nn.GELU()), "activated by GELU"),
        (lambda: MessageLayer([4, 3], masked=False), "computes something else"),
        (lambda: Centred("2to0", 4, 3), "computes something else"),
        (lambda: EdgeAggregators("2to2", 4, 3, "prod"), "aggr is 'prod'"),
    ],
)
def test_what_computes_otherwise_is_left_alone(make: Callable[[], nn.Module], reason: str) -> None:
    torch.manual_seed(0)
    module = make().double()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    if isinstance(module, WithoutAlphas):
        nn.init.zeros_(module.alphas[0])  # the published initial value, with which the difference does not show
        before["alphas.0"].zero_()
    with pytest.raises(ValueError, match=reason):
        ek.fuse_(module)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_stack_with_an_unmasked_norm_keeps_its_forward_and_its_layers_are_fused() -> None:
    torch.manual_seed(1)
    x, _, mask, nobj = padded_batch()
    module = stack(masked=False).double()
    fused = ek.fuse_(copy.deepcopy(module))
    assert not is_fused(fused)
    assert [is_fused(layer) for layer in fused.eq_layers] == [True, True]
    for training in (False, True):
        _, theirs = outcome(module.train(training), x, mask, nobj)
        _, ours = outcome(fused.train(training), x, mask, nobj)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_compiled_layers_give_the_same_numbers() -> None:
    torch.manual_seed(1)
    x, _, mask, nobj = padded_batch()
    edge_index = edges()
    features = torch.randn(edge_index.shape[1], 4, dtype=torch.float64)
    cases = [
        (Aggregators("2to2", 4, 3, "Sx"), (x, mask, nobj), True),
        (stack(), (x, mask, nobj), False),
        (EdgeAggregators("2to0", 4, 3, "sum"), (features, edge_index, NODES), False),
    ]
    for module, batch, fullgraph in cases:
        module = module.double().train()
        fused = ek.fuse_(copy.deepcopy(module))
        compiled = torch.compile(fused, fullgraph=fullgraph, backend="aot_eager")
        _, theirs = outcome(module, *batch)
        _, ours = outcome(compiled, *batch)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
