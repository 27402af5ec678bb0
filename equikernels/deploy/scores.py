"""Programs that read events as files have them and give scores: the probability of signal, or a momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from .inputs import EDGE_INDEX, EDGES, NODES, PTR, Input

# The networks that equikernels.train knows, by their class.
NAMES = {"PELICANClassifier": "PELICAN"}


def task_of(op: str, model: nn.Module) -> Any:
    """How :mod:`equikernels.train` calls a network.

    Raises:
        TypeError: it does not.
    """
    from ..train.tasks import TASKS
    from ..train.tasks.points import OfPoints, Tagger

    kind = type(model).__name__
    of_events = type(model.network).__name__ if isinstance(model, Tagger) else kind
    name = NAMES.get(of_events, of_events)
    # networks of points are trained inside a Tagger
    if name not in TASKS or isinstance(TASKS[name], OfPoints) != isinstance(model, Tagger):
        fail(op, "model", 'a network of equikernels.train with reads="events"', kind, TypeError)
    return TASKS[name]


def events_of(op: str, model: nn.Module) -> list[Input]:
    """What a program of a network reads of events."""
    task = task_of(op, model)
    if getattr(model, "num_data_scalars", 0) > 0:
        fail(op, "reads", '"arguments" for a network that reads PDG ids', "events")
    if task.data != "hits":
        return [Input("p4", NODES, 4, torch.float64), PTR]
    weights = next(model.parameters()).dtype
    return [Input("x", NODES, 3, weights), EDGE_INDEX, Input("edge_attr", EDGES, 4, weights)]


class Scores(nn.Module):
    """The probability of signal of each jet, or of each edge of a hit graph; of PELICANRegressor the momentum."""

    def __init__(self, model: nn.Module, padded_to: int | None) -> None:
        super().__init__()
        self.model, self.task = model, task_of("package", model)
        self.options = {} if padded_to is None else {"padded_to": padded_to}

    def forward(self, *tensors: Tensor) -> Tensor:
        from ..train.tasks import Hits, JetBatch

        x, where, *rest = tensors
        if self.task.data != "hits":
            batch: Any = JetBatch(x, where, where)  # the labels are not read
        else:
            batch = Hits(x, Graph.from_edge_index(where, x.shape[0], validate=False), rest[0], rest[0])
        arguments = self.task.arguments(batch, next(self.model.parameters()).dtype, False)
        score: Tensor = self.task.score(self.model(*arguments, **self.options))
        return score
