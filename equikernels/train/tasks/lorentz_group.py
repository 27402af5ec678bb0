"""The Lorentz Group Network on jets."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ... import models, published
from ...checks import fail
from ...data import with_beams
from ...graph import Graph
from .task import JetBatch, Options, Task


class LGN(Task):
    """LGN with beams, which a label of +1 tells from constituents, -1 (arXiv 2006.04780)."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        if not formula:
            return models.LGN(**options)
        if not options.get("compat"):
            fail("config", "options.compat", "true, as the published formula has it", "false")
        return published.LGN(**{k: v for k, v in options.items() if k != "compat"})

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        x, ptr, is_beam = with_beams(batch.p4, batch.ptr, validate=False)
        label = torch.where(is_beam, 1.0, -1.0).to(dtype)[:, None]
        if formula:
            return published.LGN.padded_inputs(x.to(dtype), label, ptr)
        return x, label, Graph.complete(ptr, True, num_nodes=x.shape[0], validate=False)
