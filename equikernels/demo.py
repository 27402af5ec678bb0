"""``equikernels demo``: networks on two thousand jets, by their published formulas and by equikernels.

Each side runs in its own process. Its peak memory is the high-water mark of the resident memory (VmHWM, which Linux
records and a process may reset) minus the memory resident before the first batch. The time to make inputs is not
measured: padded tensors (and edge lists) for the published formula, packed tensors for equikernels. A formula too slow
for all jets scores the first ones; times are compared on the batches that both sides scored.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import metrics, models, published
from .backend import backends
from .data import Jets, load_sample_jets, top_tagging_scalars, with_beams
from .pretrained import load_pretrained, pretrained_card
from .process import above, in_child, memory, reset_peak

SIDES = {"published": "published formula, eager PyTorch", "equikernels": "equikernels"}


@dataclass(frozen=True)
class Settings:
    jets: int = 2000
    output: Path = Path("demo_output")
    threads: int | None = None
    seed: int = 0


@dataclass
class Scores:
    """The results of one side.

    Attributes:
        logits: [n_jets, 2], of the first jets.
        seconds: of each full batch (of the only batch, if none is full).
        peak: the most bytes that scoring added to the process; None if the system does not report it.
        sweep: batch size -> (seconds, bytes).
    """

    logits: Tensor
    seconds: list[float] = field(default_factory=list)
    batch: int = 100
    peak: int | None = None
    sweep: dict[int, tuple[float, int | None]] = field(default_factory=dict)

    def seconds_per_100(self, batches: int | None = None) -> float:
        """Median over the first batches."""
        return statistics.median(self.seconds[:batches]) * 100 / self.batch


# --- The networks -----------------------------------------------------------------------------------------------


class Network:
    """A network of the demo.

    Attributes:
        title: for the report.
        batch: jets in a batch.
        compared: how many jets the published formula scores; None: all.
        checked: how many jets are scored in float64.
        sweep: batch sizes that are timed.
    """

    title: str
    batch: int
    compared: int | None
    checked: int
    sweep: tuple[int, ...]

    def models(self) -> dict[str, nn.Module]:
        """Both sides, with random weights."""
        raise NotImplementedError

    def inputs(self, side: str, jets: Jets, dtype: torch.dtype, padded_to: int) -> tuple[Any, ...]:
        """Arguments of a side's model with weights in dtype; the published one sees padded_to constituents a jet."""
        raise NotImplementedError


class LorentzNet(Network):
    title = "LorentzNet (arXiv 2201.08187): width 72, 6 blocks"
    batch, compared, checked, sweep = 100, None, 50, (1, 3, 10, 30, 100)
    c_weight = 5e-3  # of the published top tagger, like the widths
    coordinates: torch.dtype | None = None  # of four-momenta, if not that of the weights

    def models(self) -> dict[str, nn.Module]:
        ours = models.LorentzNet(2, 72, n_layers=6, c_weight=self.c_weight, readout="padded_mean")
        return {"equikernels": ours, "published": published.LorentzNet(2, 72, n_layers=6, c_weight=self.c_weight)}

    def inputs(self, side: str, jets: Jets, dtype: torch.dtype, padded_to: int) -> tuple[Any, ...]:
        x, ptr, is_beam = with_beams(jets.p4, jets.ptr)  # masses are inputs: both precisions read the same ones
        x, scalars = x.to(self.coordinates or dtype), top_tagging_scalars(x, is_beam).to(dtype)
        if side == "published":
            return published.LorentzNet.padded_inputs(x, scalars, ptr, padded_to + 2)
        return x, scalars, ptr  # the model pads to the longest event


class Tagger(LorentzNet):
    """The trained network of the package. Both sides average over real particles: no score depends on the batch. Both
    read four-momenta in float64: in float32 the published formula loses the masses of light pairs."""

    name = "lorentznet-top"
    coordinates = torch.float64

    @property
    def title(self) -> str:  # type: ignore[override]
        options = pretrained_card(self.name)["config"]["options"]
        return f"{self.name}, trained: LorentzNet of width {options['n_hidden']}, {options['n_layers']} blocks"

    def models(self) -> dict[str, nn.Module]:
        options = pretrained_card(self.name)["config"]["options"]
        ours = load_pretrained(self.name)
        return {"equikernels": ours, "published": published.LorentzNet(2, **{"readout": "masked_mean", **options})}


class PELICAN(Network):
    """On both sides four-momenta and their products are float64, all else float32: in float32 the published formula
    loses the masses of light pairs, and logits differ by more than rounding."""

    title = "PELICAN (arXiv 2307.16506): widths 60 and 35, 5 blocks, two spurions"
    batch, compared, checked, sweep = 10, 50, 20, (1, 3, 10)
    widths: ClassVar[dict[str, Any]] = {
        "num_channels_scalar": 10,
        "num_channels_m": [[60]] * 5,
        "num_channels_2to2": [35] * 5,
        "num_channels_out": [60],
        "num_channels_m_out": [60, 35],
        "stabilizer": "so2",
    }

    def models(self, config: str = "M") -> dict[str, nn.Module]:
        sizes = {**self.widths, "config": config, "config_out": config}
        ours = models.PELICANClassifier(**sizes, method="spurions", factorize=True, batchnorm="b")
        return {"equikernels": ours, "published": published.PELICANClassifier(**sizes)}

    def inputs(self, side: str, jets: Jets, dtype: torch.dtype, padded_to: int) -> tuple[Any, ...]:
        if side == "published":
            return published.PELICANClassifier.padded_inputs(jets.p4.double(), jets.ptr, padded_to)
        return jets.p4.double(), jets.ptr


NETWORKS: dict[str, Network] = {"Tagger": Tagger(), "LorentzNet": LorentzNet(), "PELICAN": PELICAN()}


# --- The two sides ----------------------------------------------------------------------------------------------


def build(network: str, side: str, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network with seeded weights, in eval mode; both sides hold the same weights."""
    torch.manual_seed(seed)
    sides = NETWORKS[network].models()
    sides["published"].load_state_dict(sides["equikernels"].state_dict())
    return sides[side].to(dtype).eval()


def prepare(
    network: str, side: str, model: nn.Module, jets: Jets, padded_to: int | None = None
) -> Callable[[], Tensor]:
    """Makes the network's inputs from jets; the returned function is timed."""
    dtype = next(model.parameters()).dtype
    longest = int(jets.ptr.diff().max()) if padded_to is None else padded_to
    inputs = NETWORKS[network].inputs(side, jets, dtype, longest)
    return lambda: model(*inputs)


@torch.inference_mode()
def score(network: str, side: str, settings: Settings) -> Scores:
    """Scores jets on one side, after a sweep over batch sizes. Runs in a child process."""
    from tqdm import tqdm

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    this, model = NETWORKS[network], build(network, side, settings.seed)
    jets = load_sample_jets()[: settings.jets]
    if side == "published":
        jets = jets[: this.compared]
    prepare(network, side, model, jets[:2])()
    resident = memory("VmRSS")
    sizes = [size for size in this.sweep if size <= len(jets)]
    result = Scores(torch.empty(0), batch=min(this.batch, len(jets)))
    label = f"{network}, {SIDES[side]}"
    with tqdm(total=sum(sizes) + len(jets), desc=f"{label:46s}", unit=" jets", leave=True) as bar:
        for size in sizes:
            result.sweep[size] = _sweep_point(prepare(network, side, model, jets[:size]), resident)
            bar.update(size)
        logits = []
        reset_peak()
        for batch in jets.batches(this.batch):
            forward = prepare(network, side, model, batch)
            seconds, out = _timed(forward)
            logits.append(out)
            if len(batch) == result.batch:
                result.seconds.append(seconds)
            bar.update(len(batch))
    result.peak = above(resident)
    result.logits = torch.cat(logits)
    return result


@torch.inference_mode()
def oracle(network: str, settings: Settings) -> Tensor:
    """The published formula in float64, for the first jets. Runs in a child process."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    this, model = NETWORKS[network], build(network, "published", settings.seed, torch.float64)
    logits: list[Tensor] = []
    left = this.checked
    for batch in load_sample_jets()[: settings.jets].batches(this.batch):
        if left > 0:  # with the padding of the batches for comparison
            longest = int(batch.ptr.diff().max())
            logits.append(prepare(network, "published", model, batch[:left], longest)())
        left -= len(batch)
    return torch.cat(logits)


def _timed(forward: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    out = forward()
    return time.perf_counter() - start, out


def _sweep_point(forward: Callable[[], Tensor], resident: int | None) -> tuple[float, int | None]:
    """Median time of a few calls (one if it is slow) and their peak memory."""
    reset_peak()
    times = [_timed(forward)[0]]
    while sum(times) < 0.5 and len(times) < 5:
        times.append(_timed(forward)[0])
    return statistics.median(times), above(resident)


# --- Do they agree? ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Compares the logits of the two sides.

    They agree if both conditions hold: on the jets that are also scored in float64, the root mean square error of
    equikernels is at most twice that of the published formula at the same precision (plus one rounding of the largest
    logit); over all jets, the difference is below 1e-4 of the largest logit. The largest error of a dozen jets is that
    of the one whose logit amplifies rounding most: by chance either side's is several times the other's.
    """

    difference: float
    scale: float
    published_error: float
    error: float

    @staticmethod
    def of(published: Tensor, ours: Tensor, exact: Tensor) -> Agreement:
        n = len(exact)
        return Agreement(
            (published - ours).abs().max().item(),
            published.abs().max().item(),
            (published[:n] - exact).square().mean().sqrt().item(),
            (ours[:n] - exact).square().mean().sqrt().item(),
        )

    @property
    def holds(self) -> bool:
        # A NaN anywhere makes this False.
        rounding = torch.finfo(torch.float32).eps * self.scale
        return self.error <= 2 * self.published_error + rounding and self.difference <= 1e-4 * self.scale


# --- The report -------------------------------------------------------------------------------------------------


def report(published: Scores, ours: Scores, exact: Tensor, settings: Settings) -> tuple[str, bool]:
    """The text that the demo prints, and whether the two sides agree. Without agreement it contains no speed-up."""
    compared, batches = len(published.logits), len(published.seconds)
    agreement = Agreement.of(published.logits, ours.logits[:compared], exact)
    times = published.seconds_per_100(batches), ours.seconds_per_100(batches)
    rows = [
        ("", "published", "equikernels", ""),
        ("time per 100 jets", _ms(times[0]), _ms(times[1]), ""),
        ("peak memory of scoring", _mib(published.peak), _mib(ours.peak), ""),
        ("rms error against float64", f"{agreement.published_error:.1e}", f"{agreement.error:.1e}", ""),
    ]
    if agreement.holds:
        rows[1] = (*rows[1][:3], _ratio(*times, "faster", "slower"))
        if published.peak and ours.peak:
            rows[2] = (*rows[2][:3], _ratio(published.peak, ours.peak, "less", "more"))
    lines = [f"{name:24s} {a:>14s} {b:>14s}  {ratio}".rstrip() for name, a, b, ratio in rows]
    lines += [
        "",
        f"Largest logit difference: {agreement.difference:.1e}, over {compared} jets; "
        f"largest logit: {agreement.scale:.2f}.",
        f"Medians over {batches} batches of {ours.batch} jets; {settings.threads or torch.get_num_threads()} threads.",
        "Memory: resident high-water mark, each side in its own process, above what was there before the first batch.",
    ]
    if not agreement.holds:
        lines += ["", "The two sides DO NOT AGREE: no speed-up is given. This is a bug; please report it."]
    return "\n".join(lines), agreement.holds


def quality(published: Tensor, ours: Tensor, label: Tensor) -> str:
    """Accuracy, AUC and rejection of both sides, on the jets that both scored."""
    n = len(published)
    found = [metrics.summary(logits.softmax(1)[:, 1], label[:n]) for logits in (published, ours[:n])]

    def rejection(of: dict[str, float]) -> str:
        bound = "> " if of["rejection_0.3_bound"] else ""
        return f"{bound}{of['rejection_0.3']:.0f}"

    rows = [
        ("accuracy", *(f"{of['accuracy']:.4f}" for of in found)),
        ("AUC", *(f"{of['auc']:.5f}" for of in found)),
        ("1/eps_B at eps_S = 0.3", *map(rejection, found)),
    ]
    return "\n".join(f"{name:24s} {a:>14s} {b:>14s}" for name, a, b in rows)


def _ratio(theirs: float, ours: float, better: str, worse: str) -> str:
    return f"{theirs / ours:.1f}x {better}" if theirs >= ours else f"{ours / theirs:.1f}x {worse}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


def _mib(size: int | None) -> str:
    return "not known" if size is None else f"{size / 2**20:.0f} MiB"


def run(settings: Settings) -> int:
    """Runs the demo. Returns 0, or 1 if the two sides disagree."""
    from . import plots

    jets = load_sample_jets()[: settings.jets]
    print(
        f"{len(jets)} simulated jets, {jets.p4.shape[0] / len(jets):.1f} constituents on average; float32, CPU.\n"
        "The tagger was trained on other jets of this simulation; the two large networks have random weights (seed "
        f"{settings.seed}).\n"
    )
    settings.output.mkdir(parents=True, exist_ok=True)
    written = [settings.output / name for name in ("event_display.png", "results.json", "scores.csv")]
    results: dict[str, Any] = {}
    signal: dict[str, Tensor] = {}
    sides: dict[str, Tensor] = {}
    for name, network in NETWORKS.items():
        parameters = sum(p.numel() for p in build(name, "equikernels", settings.seed).parameters())
        print(f"{network.title}, {parameters:,} parameters, batches of {network.batch} jets\n")
        ours = in_child(score, name, "equikernels", settings)
        published = in_child(score, name, "published", settings)
        exact = in_child(oracle, name, settings)
        text, agrees = report(published, ours, exact, settings)
        print(f"\n{text}\n")
        if name == "Tagger" and agrees and len(set(jets.label[: len(published.logits)].tolist())) == 2:
            print(f"{quality(published.logits, ours.logits, jets.label)}\n")
        results[name] = {"agrees": agrees, "published": _as_json(published), "equikernels": _as_json(ours)}
        signal[name] = ours.logits.softmax(1)[:, 1]
        if name == "Tagger":
            sides = {"equikernels": signal[name], "published formula": published.logits.softmax(1)[:, 1]}
        if agrees:
            written.append(settings.output / f"batch_size_{name.lower()}.png")
            plots.batch_size(published.sweep, ours.sweep, network.title, written[-1])
    plots.event_display(jets, written[0], signal["Tagger"])
    labels = jets.label[: len(signal["Tagger"])]
    if len(set(labels.tolist())) == 2:
        curves = {side: metrics.roc(scores, labels[: len(scores)]) for side, scores in sides.items()}
        written += [settings.output / "roc.png", settings.output / "scores.png"]
        plots.roc(curves, written[-2])
        plots.score_histogram(signal["Tagger"].numpy(), labels.numpy(), written[-1])
    where = "\n".join(f"  {op:24s} {devices['cpu']}" for op, devices in backends().items())
    print(f"Implementations on the CPU, op by op:\n{where}\n")
    written[1].write_text(json.dumps(results, indent=1) + "\n")
    _write_scores(jets, signal, written[2])
    print("Written: " + ", ".join(str(path) for path in written))
    return 0 if all(result["agrees"] for result in results.values()) else 1


def _write_scores(jets: Jets, signal: dict[str, Tensor], path: Path) -> None:
    """One row per jet: its label and the probability of signal from each network."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["jet", "label", *signal])
        columns = [scores.tolist() for scores in signal.values()]
        for k, (label, *scores) in enumerate(zip(jets.label.tolist(), *columns, strict=True)):
            rows.writerow([k, label, *(f"{value:.6f}" for value in scores)])


def _as_json(scores: Scores) -> dict[str, Any]:
    return {
        "jets": len(scores.logits),
        "seconds_per_100_jets": scores.seconds_per_100(),
        "seconds": scores.seconds,
        "peak_bytes": scores.peak,
        "sweep": {str(size): point for size, point in scores.sweep.items()},
    }
