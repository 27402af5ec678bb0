"""Tests whole networks as ONNX files, on plain ONNX Runtime and with the library of kernels."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import _native, published
from equikernels.deploy.inputs import EDGES, ENDS, IMAGES, PTR, Input, inputs_of
from equikernels.deploy.package import Program
from equikernels.deploy.scores import Scores
from equikernels.export import TAKES_ANY_SIZE
from equikernels.train.tasks import build

from ..support.golden import jets
from ..support.networks import NETWORKS, PLAIN, short_resnext
from ..support.pelican import small

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from equikernels.deploy import export_onnx, onnxruntime_library  # noqa: E402

pytestmark = pytest.mark.skipif(not TAKES_ANY_SIZE, reason="export_onnx needs PyTorch 2.13")
TOLERANCE = 1e-5  # of the largest value
SIZES = [(5, 4, 1), (3,), (1,), (2, 0, 7), (0,)]
Arrays = dict[str, np.ndarray[Any, Any]]


def session(path: Path, library: bool, threads: int = 1) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(onnxruntime_library())
    return ort.InferenceSession(str(path), options)


def values(inputs: list[Input], sizes: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """Tensors for a program of these inputs, and ptr."""
    p4, ptr = jets(*sizes)
    n, generator = len(p4), torch.Generator().manual_seed(3)
    made = {}
    for given in inputs:
        if given.name == PTR.name:
            made[given.name] = ptr
        elif given.rows == ENDS:
            made[given.name] = torch.randint(0, max(n, 1), (2, 3 * n), generator=generator)
        elif given.rows == IMAGES:
            made[given.name] = torch.rand(len(sizes), 1, given.width, given.width, generator=generator)
        elif given.width == 4 and given.name in ("x", "p4"):
            made[given.name] = p4.float()
        else:
            made[given.name] = torch.randn(3 * n if given.rows == EDGES else n, given.width, generator=generator)
    return made, ptr


def padded(packed: dict[str, Tensor], ptr: Tensor, slots: int) -> tuple[dict[str, Tensor], Tensor]:
    """The same events with padding that nothing may read, and the mask."""
    real = torch.arange(slots) < ptr.diff()[:, None]
    made = {"mask": real.float()}
    for name, rows in packed.items():
        if name != PTR.name:
            made[name] = torch.full((len(real), slots, rows.shape[1]), float("nan"))
            made[name][real] = rows
    return made, real


def check(found: list[np.ndarray[Any, Any]], wanted: Any, real: Tensor | None, largest: float = 0.0) -> None:
    """``largest``: of values of other events."""
    wanted = [wanted] if isinstance(wanted, Tensor) else list(wanted)
    assert len(found) == len(wanted)
    for array, want in zip(found, wanted, strict=True):
        got = torch.from_numpy(array)
        if real is not None and got.shape[:2] == real.shape:
            assert (got[~real] == 0).all()
            got = got[real]
        assert got.shape == want.shape
        atol = TOLERANCE * max(largest, float(want.abs().max()) if want.numel() else 0.0)
        torch.testing.assert_close(got, want, rtol=0, atol=atol)


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: NETWORKS[name][0] for name in (
        "LorentzNet", "VecNet", "PELICANNano", "EGNN", "EGNNVelocity", "RadialField", "EuclidNet", "EuclidNetSO3",
        "InteractionNetwork", "VecNetTracking", "PELICANRegressor, se2", "LorentzNet, not equivariant", "SchNet", "GNN",
        "RadialField, plain", "TFN",
    )},
    **PLAIN,
    "PELICANClassifier": lambda: ek.models.PELICANClassifier(**small(batchnorm="b")),
}  # fmt: skip


def test_no_network_is_left_out() -> None:
    networks = {getattr(ek.models, name) for name in dir(ek.models) if name[0].isupper()}
    refused = {ek.models.EFP, ek.models.LGN, ek.models.ParT, ek.models.ParticleNet}
    assert networks - refused == {type(make()) for make in MODELS.values()}


def axes_of_reductions(made: Any) -> list[int]:
    """All that the model's reductions name."""
    found: list[int] = []
    read = onnx.numpy_helper.to_array
    for nodes in (made.graph.node, *(function.node for function in made.functions)):
        known = {t.name: read(t) for t in made.graph.initializer}
        known |= {
            n.output[0]: read(n.attribute[0].t) for n in nodes if n.op_type == "Constant" and n.attribute[0].t.dims
        }
        for node in nodes:
            if node.op_type.startswith("Reduce"):
                found += known[node.input[1]].tolist()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_every_network_gives_what_pytorch_gives(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    path = export_onnx(model, tmp_path / "network.onnx")
    made = onnx.load(path)
    assert made.ir_version == 8
    assert min(axes_of_reductions(made), default=0) >= 0  # ONNX Runtime 1.17 to 1.30 fail at others without rows
    onnx.checker.check_model(made, full_check=True)
    inputs = inputs_of("test", model, 3, torch.float32)
    program = Program(model, inputs)
    # The vectors of a point alone cancel to 0.01, of which PyTorch's float32 itself is off by 4e-5; others are 2.
    largest = 2.0 if name == "TFN" else 0.0
    for library in (False, True):
        runtime = session(path, library)
        names = [given.name for given in runtime.get_inputs()]
        for sizes in SIZES:
            tensors, ptr = values(inputs, sizes)
            with torch.no_grad():
                wanted = program(*tensors.values())
            real = None
            if "mask" in names:
                tensors, real = padded(tensors, ptr, max(*sizes, 1) + 2)
            check(runtime.run(None, {name: tensors[name].numpy() for name in names}), wanted, real, largest)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The network that ships, as a file that reads four-momenta alone."""
    model = ek.load_pretrained("lorentznet-top").eval()
    return model, export_onnx(model, tmp_path_factory.mktemp("onnx") / "tagger.onnx", reads="events")


def scores(model: nn.Module, p4: Tensor, ptr: Tensor) -> Tensor:
    x, with_beams, is_beam = ek.data.with_beams(p4, ptr)
    with torch.inference_mode():
        return model(x, ek.data.top_tagging_scalars(x, is_beam), with_beams).softmax(1)[:, 1]


def batch(jets: ek.data.Jets, slots: int) -> Arrays:
    tensors, _ = padded({"p4": jets.p4.float()}, jets.ptr, slots)
    return {name: t.numpy() for name, t in tensors.items()}


@pytest.mark.parametrize("library", [False, True], ids=["plain", "library"])
def test_the_tagger_scores_jets(tagger: tuple[nn.Module, Path], library: bool) -> None:
    model, path = tagger
    runtime = session(path, library)
    sample = ek.data.load_sample_jets()
    for events in (1, 7, 100):
        some = sample[:events]
        wanted = scores(model, some.p4.float(), some.ptr)
        (found,) = runtime.run(None, batch(some, 200))
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=TOLERANCE)


TRAINED: dict[str, dict[str, Any]] = {
    "EGNN": {"n_layers": 1, "hidden_nf": 8},
    "PFN": {"phi": (8, 8), "f": (8,)},
    "EFN": {"phi": (8, 8), "f": (8,)},
    "MLP": {"n_particles": 30, "n_hidden": 8},
    "PELICANRegressor": small(),
}


@pytest.mark.parametrize("name", [*TRAINED, "ResNeXt"])
def test_every_input_of_training_is_made_in_the_file(name: str, tmp_path: Path) -> None:
    """Features, angles in float64 among them, and images."""
    torch.manual_seed(0)
    model = (short_resnext() if name == "ResNeXt" else build(name, TRAINED[name], "equikernels")).eval()
    path = export_onnx(model, tmp_path / "tagger.onnx", reads="events")
    assert min(axes_of_reductions(onnx.load(path)), default=0) >= 0
    program = Scores(model, None)
    for library in (False, True):
        runtime = session(path, library)
        for numbers in ([0], list(range(7)), [3, 3, 5]):
            some = ek.data.load_sample_jets()[numbers]
            p4, ptr = some.p4.float(), some.ptr
            if len(numbers) == 3:  # the second one empty
                ptr = torch.tensor([0, ptr[1], ptr[1], ptr[2]])
                p4 = p4[: ptr[-1]]
            with torch.inference_mode():
                wanted = program(p4, ptr)
            (found,) = runtime.run(None, batch(ek.data.Jets(p4, ptr, some.label), 200))
            largest = max(1.0, float(wanted.abs().max()))  # of momenta; probabilities are at most 1
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=TOLERANCE * largest)


def test_a_nan_stays_in_its_event(tagger: tuple[nn.Module, Path]) -> None:
    some = batch(ek.data.load_sample_jets()[:3], 150)
    for library in (False, True):
        runtime = session(tagger[1], library)
        (clean,) = runtime.run(None, some)
        some["p4"][1, 0, 0] = np.nan
        (found,) = runtime.run(None, some)
        some["p4"][1, 0, 0] = 100.0
        assert np.isnan(found[1])
        np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])


def test_plain_sums_do_not_depend_on_threads(tagger: tuple[nn.Module, Path]) -> None:
    some = batch(ek.data.load_sample_jets()[:50], 150)
    (wanted,) = session(tagger[1], False).run(None, some)
    runtime = session(tagger[1], False, threads=4)
    for _ in range(5):
        np.testing.assert_allclose(runtime.run(None, some)[0], wanted, rtol=0, atol=1e-6)


def test_sessions_run_at_once(tagger: tuple[nn.Module, Path]) -> None:
    some = batch(ek.data.load_sample_jets()[:20], 150)
    (wanted,) = session(tagger[1], True).run(None, some)
    shared = session(tagger[1], True, threads=2)
    found: list[Any] = []

    def score() -> None:
        own = session(tagger[1], True)
        for _ in range(3):
            found.append(own.run(None, some)[0])
            found.append(shared.run(None, some)[0])

    threads = [Thread(target=score) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    for each in found:  # any number of threads gives the same bits
        np.testing.assert_array_equal(each, wanted)


def test_a_file_for_one_number_of_constituents(tmp_path: Path) -> None:
    model = NETWORKS["PELICANNano"][0]().eval()
    path = export_onnx(model, tmp_path / "network.onnx", max_constituents=30)
    assert [given.shape for given in session(path, False).get_inputs()] == [["batch", 30, 4], ["batch", 30]]


def test_standard_operators_alone(tmp_path: Path) -> None:
    model = NETWORKS["PELICANNano"][0]().eval()
    path = export_onnx(model, tmp_path / "network.onnx", layout="packed", standard=True)
    made = onnx.load(path)
    assert not made.functions
    assert {node.domain for node in made.graph.node} == {""}
    p4, ptr = jets(3, 0, 6)
    found = session(path, False).run(None, {"p4": p4.float().numpy(), "ptr": ptr.numpy()})
    with torch.no_grad():
        check(found, model(p4.float(), ptr), None)


def test_packed_events(tmp_path: Path) -> None:
    model = NETWORKS["PELICANNano"][0]().eval()
    path = export_onnx(model, tmp_path / "network.onnx", layout="packed")
    p4, ptr = jets(3, 0, 6)
    for library in (False, True):
        found = session(path, library).run(None, {"p4": p4.float().numpy(), "ptr": ptr.numpy()})
        with torch.no_grad():
            check(found, model(p4.float(), ptr), None)


class Users(nn.Module):
    """A model of a user's own with a published block, as its repository has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(5, 8)
        self.block = published.E_GCL(8, 8, 8)
        self.readout = nn.Linear(8, 1)

    def forward(self, h: Tensor, edge_index: Tensor, x: Tensor) -> Tensor:
        h, _, _ = self.block(self.embedding(h), edge_index, x)
        out: Tensor = self.readout(h)
        return out


def test_a_users_fused_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Users().eval()
    ek.fuse_(model)
    auto = torch.export.Dim.AUTO

    def example(n: int, edges: int) -> tuple[Tensor, ...]:
        return torch.randn(n, 5), torch.randint(0, n, (2, edges)), torch.randn(n, 3)

    named = dict(zip(("h", "edge_index", "x"), example(7, 20), strict=True))
    path = export_onnx(model, tmp_path / "users.onnx", example=named, dynamic_shapes={"edge_index": {1: auto}})
    assert "message_passing" in {node.op_type for node in onnx.load(path).graph.node}
    for library in (False, True):
        runtime = session(path, library)
        for n, edges in ((7, 20), (30, 200), (1, 1)):
            given = example(n, edges)
            with torch.no_grad():
                wanted = model(*given)
            names = [of.name for of in runtime.get_inputs()]
            by_name = dict(zip(("h", "edge_index", "x"), given, strict=True))
            check(runtime.run(None, {name: by_name[name].numpy() for name in names}), wanted, None)


def test_the_library_needs_neither_torch_nor_python() -> None:
    out = subprocess.run(["ldd", onnxruntime_library()], capture_output=True, text=True, check=True).stdout
    needed = {line.split()[0].split(".")[0].split("/")[-1] for line in out.splitlines() if line.strip()}
    assert needed <= {"linux-vdso", "libstdc++", "libm", "libgcc_s", "libc", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = NETWORKS["PELICANNano"][0]()
    with pytest.raises(ValueError, match=r"export_onnx: model: expected a network in evaluation"):
        export_onnx(model.train(), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"export_onnx: model: expected float32 weights"):
        export_onnx(model.eval().double(), tmp_path / "x.onnx")
    with pytest.raises(TypeError, match=r"export_onnx: model: expected a network of equikernels.models"):
        export_onnx(nn.Linear(2, 2).eval(), tmp_path / "x.onnx")
    with pytest.raises(TypeError, match="export_onnx: model: expected a network of real numbers"):
        export_onnx(NETWORKS["LGN"][0]().eval(), tmp_path / "x.onnx")
    for by_size in (ek.models.EFP(2), ek.models.ParT(n_blocks=1), ek.models.ParticleNet()):
        for reads in ("arguments", "events"):
            with pytest.raises(TypeError, match=r"^export_onnx: model: expected a network whose steps"):
                export_onnx(by_size.eval(), tmp_path / "x.onnx", reads=reads)
    with pytest.raises(ValueError, match="max_constituents"):
        export_onnx(model.float(), tmp_path / "x.onnx", layout="packed", max_constituents=3)
    monkeypatch.setattr(_native, "bfloat16_pays", True)
    with pytest.raises(ValueError, match="medium"):
        export_onnx(ek.models.LorentzNet(2, 8, n_layers=1, precision="medium").eval(), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="dynamic_shapes: expected names of x, got y"):
        export_onnx(
            nn.Linear(2, 2).eval(), tmp_path / "x.onnx", example={"x": torch.ones(3, 2)}, dynamic_shapes={"y": {}}
        )
    assert not list(tmp_path.iterdir())
