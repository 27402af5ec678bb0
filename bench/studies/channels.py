"""VecNet's dial: equivariant against free channels at constant size, as arXiv 2202.06941 and CTD 2022."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from equikernels.models import VecNet
from equikernels.train import Classifier

from .ant import FACTORS, factor_cells, with_factors
from .figures import curves
from .study import Job, Numbers, Place, Published, Results
from .tables import markdown, other_data
from .training import TrainingStudy, networks, values_of, with_limit, with_training

EPOCHS, LIMIT = 4, 2000  # of a quick run: epochs and training jets
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)  # of channels that are free; 0 is LorentzNet
SIZES = {False: {"parameters": (10_000,), "n_layers": 3}, True: {"parameters": (15_000, 224_000), "n_layers": 6}}
SOURCE = "Thais, Murnane 2023, table 1"
# Of VecNet with 15k parameters, of whose channels 4 are free: how many are equivariant is not published.
PUBLISHED = "15k parameters, 4 free channels: 0.931, 0.981, 10^5 v2 350"


class Channels(TrainingStudy):
    name = "channels"
    asks = "How many of a network's channels should be equivariant?"
    source = f"{SOURCE}; arXiv 2202.06941; CTD 2022"

    def groups(self, full: bool) -> dict[str, dict[str, Any]]:
        given = networks("jets", full)["VecNet"]
        config = given if full else with_limit(with_training(given, epochs=EPOCHS), LIMIT)
        found = {}
        for size in SIZES[full]["parameters"]:
            for share in SHARES:
                options = {**config.options, **widths(size, share, SIZES[full]["n_layers"])}
                name = f"{size // 1000}k parameters, {share:.0%} free"
                found[name] = values_of(replace(config, options=options), size=size, share=share)
        return found

    def evaluate(self, model: Classifier, report: Mapping[str, Any], job: Job, place: Place) -> Numbers:
        return with_factors(super().evaluate(model, report, job, place), report["parameters"])

    def table(self, results: Results) -> str:
        rows = []
        for group, values in results.jobs("size", "share"):
            options = values["config"]["options"]
            other = Published(PUBLISHED, SOURCE) if options["n_free"] == 4 and values["size"] < 20_000 else None
            widths = [str(options["n_hidden"]), str(options["n_free"])]
            size = f"{results.groups[group][0]['parameters']:,}"
            rows.append([*widths, size, *factor_cells(results, group), other_data(other)])
        return markdown(["equivariant channels", "free channels", "parameters", *FACTORS, "other data"], rows)

    def plot(self, results: Results, path: Path) -> None:
        lines: dict[str, tuple[list[float], list[Any]]] = {}
        for group, values in results.jobs("size", "share"):
            places, found = lines.setdefault(f"{values['size'] // 1000}k parameters", ([], []))
            options = values["config"]["options"]
            places.append(options["n_free"] / (options["n_free"] + options["n_hidden"]))
            found.append(results.spread(group, "auc"))
        curves(lines, path, xlabel="share of channels that are free", ylabel="AUC")


def widths(parameters: int, share: float, n_layers: int) -> dict[str, int]:
    """The options of a VecNet of the task, which reads two scalars and four free features."""
    model = VecNet.of_size(parameters, share, 2, 4, n_layers=n_layers)
    n_free = model.free_encoder.out_features if hasattr(model, "free") else 0
    return {"n_hidden": model.embedding.out_features, "n_free": int(n_free), "n_layers": n_layers}
