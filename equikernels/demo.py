"""``equikernels demo``: LorentzNet on two thousand jets, by the published formula and by equikernels.

Each side runs in a process of its own, so that its peak memory is its own: the high-water mark of the resident memory
(VmHWM, which Linux keeps and lets a process reset) less what was resident before the first batch. Inputs are made
outside the clock: padded tensors and the edge list for the published formula, packed tensors for equikernels.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import baselines, models
from .backend import backends
from .data import Jets, load_sample_jets, top_tagging_scalars, with_beams

BATCH = 100
SWEEP = (1, 3, 10, 30, 100)
CHECKED = 50  # jets scored in float64 as well
WIDTH, LAYERS, C_WEIGHT = 72, 6, 5e-3  # the published top tagger
SIDES = {"published": "published formula, eager PyTorch", "equikernels": "equikernels"}


@dataclass(frozen=True)
class Settings:
    jets: int = 2000
    output: Path = Path("demo_output")
    threads: int | None = None
    seed: int = 0


@dataclass
class Scores:
    """What one side gave.

    Attributes:
        logits: [n_jets, 2].
        seconds: of each full batch (of the only one, where there is no full batch).
        peak: bytes that scoring added to the process at most; None where the system does not tell.
        sweep: batch size -> (seconds, bytes).
    """

    logits: Tensor
    seconds: list[float] = field(default_factory=list)
    batch: int = BATCH
    peak: int | None = None
    sweep: dict[int, tuple[float, int | None]] = field(default_factory=dict)

    @property
    def seconds_per_100(self) -> float:
        return statistics.median(self.seconds) * 100 / self.batch


# --- The two sides ----------------------------------------------------------------------------------------------


def build(side: str, seed: int, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """LorentzNet with seeded weights, in eval mode; both sides hold the same weights."""
    torch.manual_seed(seed)
    ours = models.LorentzNet(2, WIDTH, n_layers=LAYERS, c_weight=C_WEIGHT, readout="padded_mean")
    if side == "equikernels":
        return ours.to(dtype).eval()
    published = baselines.LorentzNet(2, WIDTH, n_layers=LAYERS, c_weight=C_WEIGHT)
    published.load_state_dict(ours.state_dict())
    return published.to(dtype).eval()


def prepare(side: str, model: torch.nn.Module, jets: Jets) -> Callable[[], Tensor]:
    """Makes the network's inputs from jets; the function returned is what is timed."""
    x, ptr, is_beam = with_beams(jets.p4.to(next(model.parameters()).dtype), jets.ptr)
    scalars = top_tagging_scalars(x, is_beam)
    longest = int(ptr.diff().max())
    if side == "equikernels":
        return lambda: model(x, scalars, ptr, padded_to=longest)
    inputs = baselines.LorentzNet.padded_inputs(x, scalars, ptr, longest)
    return lambda: model(*inputs)


@torch.inference_mode()
def score(side: str, settings: Settings) -> Scores:
    """Scores every jet on one side, after a sweep over batch sizes. Runs in a child process."""
    from tqdm import tqdm

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model = build(side, settings.seed)
    jets = load_sample_jets()[: settings.jets]
    prepare(side, model, jets[:2])()
    resident = memory("VmRSS")
    sizes = [size for size in SWEEP if size <= len(jets)]
    result = Scores(torch.empty(0), batch=min(BATCH, len(jets)))
    with tqdm(total=sum(sizes) + len(jets), desc=f"{SIDES[side]:34s}", unit=" jets", leave=True) as bar:
        for size in sizes:
            result.sweep[size] = _sweep_point(prepare(side, model, jets[:size]), resident)
            bar.update(size)
        logits = []
        reset_peak()
        for batch in jets.batches(BATCH):
            forward = prepare(side, model, batch)
            seconds, out = _timed(forward)
            logits.append(out)
            if len(batch) == result.batch:
                result.seconds.append(seconds)
            bar.update(len(batch))
    result.peak = above(resident)
    result.logits = torch.cat(logits)
    return result


@torch.inference_mode()
def oracle(settings: Settings) -> Tensor:
    """The published formula in float64, for the first jets. Runs in a child process."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model = build("published", settings.seed, torch.float64)
    # The same padding as the float32 batches they are compared with.
    jets = load_sample_jets()[: settings.jets]
    x, ptr, is_beam = with_beams(jets[:BATCH].p4, jets[:BATCH].ptr)
    longest = int(ptr.diff().max())
    n = int(ptr[min(CHECKED, len(ptr) - 1)])
    x, ptr, is_beam = x[:n].double(), ptr[: CHECKED + 1], is_beam[:n]
    # Scalars are inputs: both precisions read the same float32 masses.
    scalars = top_tagging_scalars(x.float(), is_beam).double()
    return model(*baselines.LorentzNet.padded_inputs(x, scalars, ptr, longest))


def _timed(forward: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    out = forward()
    return time.perf_counter() - start, out


def _sweep_point(forward: Callable[[], Tensor], resident: int | None) -> tuple[float, int | None]:
    """Median time of a few calls (one, where it is slow) and the peak of them."""
    reset_peak()
    times = [_timed(forward)[0]]
    while sum(times) < 0.5 and len(times) < 5:
        times.append(_timed(forward)[0])
    return statistics.median(times), above(resident)


def memory(key: str) -> int | None:
    """A field of /proc/self/status in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def reset_peak() -> None:
    # Where this is not allowed the mark keeps rising, which is right as long as batches grow.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def above(resident: int | None) -> int | None:
    peak = memory("VmHWM")
    return None if peak is None or resident is None else max(peak - resident, 0)


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Runs a function in a fresh process and returns its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


# --- Do they agree? ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Compares the logits of the two sides.

    They agree where, on the jets scored in float64 too, the error of equikernels is at most twice that of the published
    formula at the same precision (plus one rounding of the largest logit), and where over all jets the difference
    is below 1e-4 of the largest logit.
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
            (published[:n] - exact).abs().max().item(),
            (ours[:n] - exact).abs().max().item(),
        )

    @property
    def holds(self) -> bool:
        # Written so that a NaN anywhere means no.
        rounding = torch.finfo(torch.float32).eps * self.scale
        return self.error <= 2 * self.published_error + rounding and self.difference <= 1e-4 * self.scale


# --- The report -------------------------------------------------------------------------------------------------


def report(published: Scores, ours: Scores, exact: Tensor, settings: Settings) -> tuple[str, bool]:
    """What the demo prints, and whether the two sides agree. Without agreement no speed-up is given."""
    agreement = Agreement.of(published.logits, ours.logits, exact)
    rows = [
        ("", "published", "equikernels", ""),
        ("time per 100 jets", _ms(published.seconds_per_100), _ms(ours.seconds_per_100), ""),
        ("peak memory of scoring", _mib(published.peak), _mib(ours.peak), ""),
        ("error against float64", f"{agreement.published_error:.1e}", f"{agreement.error:.1e}", ""),
    ]
    if agreement.holds:
        rows[1] = (*rows[1][:3], _ratio(published.seconds_per_100, ours.seconds_per_100, "faster", "slower"))
        if published.peak and ours.peak:
            rows[2] = (*rows[2][:3], _ratio(published.peak, ours.peak, "less", "more"))
    lines = [f"{name:24s} {a:>14s} {b:>14s}  {ratio}".rstrip() for name, a, b, ratio in rows]
    lines += [
        "",
        f"Largest logit difference: {agreement.difference:.1e}, over {len(ours.logits)} jets; "
        f"largest logit: {agreement.scale:.2f}.",
        f"Medians over {len(ours.seconds)} batches of {ours.batch} jets; "
        f"{settings.threads or torch.get_num_threads()} threads.",
        "Memory: resident high-water mark, each side in its own process, above what was there before the first batch.",
    ]
    if not agreement.holds:
        lines += ["", "The two sides DO NOT AGREE: no speed-up is given. This is a bug; please report it."]
    return "\n".join(lines), agreement.holds


def _ratio(theirs: float, ours: float, better: str, worse: str) -> str:
    return f"{theirs / ours:.1f}x {better}" if theirs >= ours else f"{ours / theirs:.1f}x {worse}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


def _mib(size: int | None) -> str:
    return "not known" if size is None else f"{size / 2**20:.0f} MiB"


def run(settings: Settings) -> int:
    """Runs the demo. Returns 0, or 1 where the two sides disagree."""
    from . import plots

    jets = load_sample_jets()[: settings.jets]
    parameters = sum(p.numel() for p in build("equikernels", settings.seed).parameters())
    print(
        f"LorentzNet (arXiv 2201.08187): width {WIDTH}, {LAYERS} blocks, {parameters:,} parameters, random weights "
        f"(seed {settings.seed}).\n{len(jets)} simulated jets, {jets.p4.shape[0] / len(jets):.1f} constituents on "
        f"average, in batches of {BATCH}, in float32 on the CPU.\n"
    )
    ours = in_child(score, "equikernels", settings)
    published = in_child(score, "published", settings)
    exact = in_child(oracle, settings)
    text, agrees = report(published, ours, exact, settings)
    where = "\n".join(f"  {op:24s} {devices['cpu']}" for op, devices in backends().items())
    print(f"\n{text}\n\nWhat runs on the CPU, op by op:\n{where}\n")

    settings.output.mkdir(parents=True, exist_ok=True)
    results = {side: _as_json(scores) for side, scores in (("published", published), ("equikernels", ours))}
    (settings.output / "results.json").write_text(json.dumps({"agrees": agrees, **results}, indent=1) + "\n")
    written = [settings.output / "results.json", settings.output / "event_display.png"]
    plots.event_display(jets, written[1])
    if agrees:
        written.append(settings.output / "batch_size.png")
        plots.batch_size(published.sweep, ours.sweep, written[2])
    print("Written: " + ", ".join(str(path) for path in written))
    return 0 if agrees else 1


def _as_json(scores: Scores) -> dict[str, Any]:
    return {
        "seconds_per_100_jets": scores.seconds_per_100,
        "seconds": scores.seconds,
        "peak_bytes": scores.peak,
        "sweep": {str(size): point for size, point in scores.sweep.items()},
    }
