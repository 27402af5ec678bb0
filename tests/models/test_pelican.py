"""PELICAN's networks against published outputs, under their symmetries, and against the padded formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels import published
from equikernels.models import PELICANClassifier, PELICANNano, PELICANRegressor
from equikernels.nn import Eq1to2, Eq2to0, Eq2to1, Eq2to2, MessageBlock
from equikernels.nn.pelican import Encoder, PairBatchNorm

from ..support.golden import filled, jets, stored
from ..support.pelican import CLASSIFIERS, S_ONLY, SPURIONS, close, count, massless, published_classifier, small

REGRESSORS: list[tuple[dict[str, Any], int, list[list[float]]]] = [
    (
        {"stabilizer": "so2", **SPURIONS}, 733,
        [[54.50219289, -0.5257946833, -2.237117749, 43.25678126], [45.24452243, 3.268904186, 6.132315494, 36.9800886]],
    ),
    (
        {"stabilizer": "so13"}, 692,
        [[53.77155279, -0.5340353653, -2.246059227, 42.5354317], [44.54292014, 3.268433091, 6.130857011, 36.28099465]],
    ),
    (
        {"stabilizer": "so2"}, 716,
        [[53.83337396, -0.09151939439, -0.3890464637, -0.1274213494],
         [44.57195487, 0.5682084877, 1.06611223, -0.1086421443]],
    ),
    (
        {"stabilizer": "so3"}, 704,
        [[53.83360662, -0.0916114217, -0.3890518837, 7.402173788],
         [44.57212372, 0.5681452785, 1.066072118, 6.310040053]],
    ),
    (
        {"stabilizer": "se2", "compat": True}, 704,
        [[44.5387873, -0.09127796593, -0.3888373998, 33.2251362],
         [37.74103536, 0.5678837117, 1.065875314, 28.55669756]],
    ),
    (
        {"stabilizer": "11"}, 733,
        [[53.82998542, -0.09141549435, 0.006694275121, 15.30556241],
         [44.56970289, 0.5683624903, -0.01835426851, 13.05020581]],
    ),
]  # fmt: skip

NANOS = [
    (1, "b", 15, [[7.096854926, -7.096854926], [6.018204703, -6.018204703]]),
    (2, "b", 27, [[-61.38719069, 61.38719069], [-32.03741909, 32.03741909]]),
    (2, None, 21, [[-53.07284549, 53.07284549], [-27.66472524, 27.66472524]]),
]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("options", "parameters", "evaluation", "training"), CLASSIFIERS)
def test_golden_classifier(
    options: dict[str, Any],
    parameters: int,
    evaluation: list[list[float]],
    training: list[list[float]] | None,
    backend: str,
) -> None:
    network = filled(PELICANClassifier(**small(**options)))
    assert count(network) == parameters
    with ek.use_backend(backend):
        if training is not None:
            close(network.train()(*jets(5, 4)), training)
            filled(network)  # running statistics
        close(network.eval()(*jets(5, 4)), evaluation)


@pytest.mark.parametrize(("options", "parameters", "golden"), REGRESSORS)
def test_golden_regressor(options: dict[str, Any], parameters: int, golden: list[list[float]]) -> None:
    network = filled(PELICANRegressor(**small(**options), num_targets=1)).eval()
    assert count(network) == parameters
    close(network(*jets(5, 4))[0], golden)


@pytest.mark.parametrize(("width", "batchnorm", "parameters", "golden"), NANOS)
def test_golden_nano(width: int, batchnorm: str | None, parameters: int, golden: list[list[float]]) -> None:
    network = filled(PELICANNano(width, average_nobj=6, batchnorm=batchnorm)).eval()
    assert count(network) == parameters
    close(network(*jets(5, 4)), golden)


@pytest.mark.parametrize("name", ["pelican_so13", "pelican_S", "pelican_cov_so13"])
def test_stored_network(name: str) -> None:
    """Weights, inputs and outputs of the published implementation; keys in the published order."""
    case = stored("pelican")[name]
    kind = PELICANRegressor if "cov" in name else PELICANClassifier
    network = kind(**case["cfg"]).double().eval()
    assert list(network.state_dict()) == list(case["state"])
    network.load_state_dict(case["state"])
    mask = case["mask"]
    out = network(case["x"][mask], torch.tensor([0, *mask.sum(1).cumsum(0)]))
    if kind is PELICANRegressor:
        close(out[0], case["predict"], 1e-9)
        close(out[1], case["weights"][mask], 1e-9)
    else:
        close(out, case["logits"], 1e-9)


SIZES = {  # (n_scalar, c_m, c_e) -> parameters with so2 spurions, with so13 input
    (7, 11, 7): (3_510, 3_404),
    (10, 16, 10): (5_933, 5_788),
    (10, 25, 15): (11_347, 11_202),
    (10, 42, 25): (26_494, 26_349),
    (10, 60, 35): (48_482, 48_337),
    (10, 132, 78): (208_797, 208_652),
    (30, 186, 110): (401_563, 401_158),
}
FULL_SIZES = [  # variants of the 48k network
    ({"stabilizer": "so2"}, 48_457),
    ({"stabilizer": "1", **SPURIONS}, 48_592),
    ({"stabilizer": "1"}, 48_517),
    ({"stabilizer": "11"}, 48_577),
    ({"stabilizer": "so2", **SPURIONS, **S_ONLY}, 46_647),
    ({"stabilizer": "so2", **SPURIONS, "factorize": False}, 177_857),
]
REGRESSOR_SIZES = [
    ({"stabilizer": "so2", **SPURIONS}, 49_001),
    ({"stabilizer": "so13"}, 48_856),
    ({"stabilizer": "so2"}, 49_098),
    ({"stabilizer": "11"}, 49_279),
]


def full(widths: tuple[int, int, int] = (10, 60, 35), blocks: int = 5, **options: Any) -> dict[str, Any]:
    scalar, c_m, c_e = widths
    return small(
        num_channels_scalar=scalar,
        num_channels_m=[[c_m]] * blocks,
        num_channels_2to2=[c_e] * blocks,
        num_channels_out=[c_m],
        num_channels_m_out=[c_m, c_e],
        **options,
    )


def test_parameter_counts() -> None:
    for widths, (spurions, invariant) in SIZES.items():
        assert count(PELICANClassifier(**full(widths, stabilizer="so2", **SPURIONS))) == spurions
        assert count(PELICANClassifier(**full(widths, rank1_dim_multiplier=1))) == invariant
    for options, expected in FULL_SIZES:
        assert count(PELICANClassifier(**full(**options))) == expected
    for options, expected in REGRESSOR_SIZES:
        assert count(PELICANRegressor(**full(**options), rank1_width_multiplier=1)) == expected
    nanos = [count(PELICANNano(n, batchnorm=b)) for b in (None, "b") for n in (1, 2, 3)]
    assert nanos == [11, 21, 31, 15, 27, 39]


def test_gradients_against_padded_formula() -> None:
    p4, ptr = jets(5, 2, 4)
    network = PELICANClassifier(**small(factorize=False)).double().train()
    theirs = published_classifier(factorize=False).double().train()
    theirs.load_state_dict(network.state_dict())
    cotangent = torch.randn(3, 2, dtype=torch.float64)
    p4.requires_grad_()

    def gradients(model: torch.nn.Module, out: Tensor) -> dict[str, Tensor]:
        named = {"p4": p4, **dict(model.named_parameters())}
        return dict(zip(named, torch.autograd.grad(out, list(named.values()), cotangent), strict=True))

    expected, out = theirs(*theirs.padded_inputs(p4, ptr)), network(p4, ptr)
    close(out, expected, 1e-11)
    got, wanted = gradients(network, out), gradients(theirs, expected)
    assert got.keys() == wanted.keys()
    for name, want in wanted.items():
        assert (got[name] - want).abs().max() <= 1e-10 * wanted["linear.weight"].abs().max().clamp(min=want.abs().max())


@pytest.mark.parametrize("case", [0, 1, 4, 5, 6, 7, 8])  # the published class does not cover the others
def test_golden_published_formula(case: int) -> None:
    """Speed-ups are relative to this formula."""
    options, parameters, evaluation, training = CLASSIFIERS[case]
    network = filled(published_classifier(**options))
    assert count(network) == parameters
    inputs = published.PELICANClassifier.padded_inputs(*jets(5, 4))
    if training is not None:
        close(network.train()(*inputs), training)
        filled(network)  # running statistics
    close(network.eval()(*inputs), evaluation)


def test_layers_have_published_parameters() -> None:
    def shapes(layer: torch.nn.Module) -> dict[str, tuple[int, ...]]:
        return {key: tuple(value.shape) for key, value in layer.state_dict().items()}

    assert shapes(Eq2to2(3, 4, config="sMX", factorize=True)) == {
        "coefs00": (3, 35), "coefs01": (4, 35), "coefs10": (3, 4), "coefs11": (3, 4), "bias": (4,), "diag_bias": (4,),
        "alphas.1": (1, 3, 10, 1, 1), "alphas.2": (1, 3, 10, 1, 1),
    }  # fmt: skip
    assert shapes(Eq2to0(3, 4, config="Sm")) == {"coefs": (3, 4, 4), "bias": (1, 4), "alphas.0": (1, 3, 2)}
    assert shapes(Eq2to1(3, 4, config="M")) == {"coefs": (3, 4, 5), "bias": (4,), "alphas.0": (1, 3, 5, 1)}
    assert shapes(Eq1to2(3, 4, config="M")) == {"coefs": (3, 4, 5), "bias": (4,), "alphas.0": (1, 3, 5, 1, 1)}


@pytest.mark.parametrize(
    ("layer", "name", "variance"),
    [
        (Eq2to2(30, 40), "coefs", 2 / (30 * 15)),
        (Eq2to2(30, 40, factorize=True), "coefs10", 1 / 30),
        (Eq2to2(300, 40, factorize=True), "coefs00", 1 / 15),
        (Eq2to1(300, 40, factorize=True), "coefs01", 1 / 5),
        (Eq2to0(30, 400), "coefs", 4 / (30 * 2)),
        (Eq1to2(30, 400), "coefs", 2 / (30 * 5)),
    ],
)
def test_initial_variance(layer: torch.nn.Module, name: str, variance: float) -> None:
    value = layer.state_dict()[name]
    assert abs(value.var().item() / variance - 1) < 6 * math.sqrt(2 / value.numel())
    assert layer.state_dict()["bias"].abs().max() == 0


def test_initial_alphas() -> None:
    for layer in (Eq2to2(20, 2, config="M"), Eq2to0(20, 2, config="X")):
        alpha = layer.alphas["0"]
        assert 0 <= alpha.min() < 0.3 < 0.7 < alpha.max() < 1
    for layer in (Eq2to1(20, 2, config="M"), Eq1to2(20, 2, config="S")):
        assert torch.equal(layer.alphas["0"], torch.zeros_like(layer.alphas["0"]))


def test_norms() -> None:
    ptr, pairs = torch.tensor([0, 3, 4]), 10
    T = torch.randn(pairs, 5, dtype=torch.float64)
    norm = PairBatchNorm(5).double()
    torch.testing.assert_close(norm(T), (T - T.mean(0)) / (T.var(0, correction=0) + 1e-5).sqrt())
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * T.var(0))
    before = norm.running_mean.clone()
    torch.testing.assert_close(norm(T[:1]), (T[:1] - before) / (norm.running_var + 1e-5).sqrt())  # no variance in one
    assert torch.equal(norm.running_mean, before)
    for kind, dims in (("i", (0,)), ("l", (0, 1))):
        block = MessageBlock([5], batchnorm=kind)
        assert not block.state_dict()
        expected = [
            (event - event.mean(dims)) / (event.var(dims, correction=0) + 1e-5).sqrt() for event in T.split([9, 1])
        ]
        torch.testing.assert_close(block(T, ptr), torch.cat(expected))


def test_encoder() -> None:
    """The encoder is accurate where the formula cancels, and has the derivative 1 at 0."""
    encoder = Encoder(4).double()
    z = torch.tensor([[-3.0, 1e-12, 0.0, 1e6]], dtype=torch.float64, requires_grad=True)
    t = encoder.rank2_alphas.detach() ** 2 + 1e-6
    expected = z.detach().sign() * torch.expm1(t * torch.log1p(z.detach().abs())) / t
    torch.testing.assert_close(encoder(z).detach(), expected, rtol=1e-14, atol=0)
    assert torch.autograd.grad(encoder(z).sum(), z)[0][0, 2] == 1


def test_graph_dtypes_dropout_and_empty_events() -> None:
    p4, ptr = massless(5, 0, 1, 4)
    network = PELICANClassifier(**small(stabilizer="so2", **SPURIONS, dropout=True)).train()
    out = network(p4.requires_grad_(), ptr)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in (p4, *network.parameters()))
    assert not torch.equal(network(p4, ptr), network(p4, ptr))
    network.eval()
    out = network(p4, ptr)
    for self_loops in (False, True):
        torch.testing.assert_close(network(p4, ek.Graph.complete(ptr, self_loops)), out, rtol=0, atol=0)
    torch.testing.assert_close(network(p4.float(), ptr), out, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(p4, ptr), out, rtol=0.05, atol=0.05, check_dtype=False)
    assert network(p4[:0], torch.tensor([0])).shape == (0, 2)


def test_compile_and_export() -> None:
    p4, ptr = jets(5, 4)
    graph = ek.Graph.complete(ptr, True, num_edges=41)
    network = filled(PELICANClassifier(**small(stabilizer="so2", **SPURIONS))).eval()
    out = network(p4, graph)
    assert torch.equal(torch.compile(network, backend="aot_eager", fullgraph=True)(p4, graph), out)
    assert torch.equal(torch.export.export(network, (p4, graph)).module()(p4, graph), out)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"stabilizer": "so4"}, "stabilizer"),
        ({"method": "other"}, "method"),
        ({"stabilizer": "so13", **SPURIONS}, "method"),
        ({"stabilizer": "so2", "irc_safe": True}, "irc_safe"),
        ({"config": "x", "irc_safe": True}, "irc_safe"),
        ({"stabilizer": "so2", **SPURIONS, "num_channels_scalar": 5}, "num_channels_scalar"),
        ({"masked": False}, "masked"),
        ({"config": "q"}, "config"),
        ({"stabilizer": "so2", **SPURIONS, "config_out": "sM"}, "config"),
        ({"num_channels_m": [[5]]}, "num_channels_m"),
        ({"batchnorm": "q"}, "batchnorm"),
        ({"activation": "tanh"}, "activation"),
        ({"dataset": "other"}, "dataset"),
    ],
)
def test_wrong_options(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(ValueError, match=f": {argument}: expected"):
        PELICANClassifier(**small(**options))


def test_wrong_inputs() -> None:
    p4, ptr = jets(5, 4)
    network = PELICANClassifier(**small())
    with pytest.raises(ValueError, match="scalars: expected None"):
        network(p4, ptr, torch.zeros(9, 12))
    with pytest.raises(ValueError, match="p4: expected shape"):
        network(p4[:, :3], ptr)
    with pytest.raises(ValueError, match="ptr"):
        network(p4, torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="padded_to: expected at least 5"):
        PELICANClassifier(**small(config="x", compat=True))(p4, ptr, padded_to=4)
    with pytest.raises(ValueError, match="scalars: expected shape"):
        PELICANClassifier(**small(dataset="jc"))(p4, ptr)
