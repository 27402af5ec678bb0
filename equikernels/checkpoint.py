"""Reads checkpoints of published networks: what is in the file decides which network is built and how wide it is."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor, nn

from .models import (
    EuclidNet,
    EuclidNetSO3,
    InteractionNetwork,
    LorentzNet,
    PELICANClassifier,
    PELICANNano,
    PELICANRegressor,
)

WRAPPERS = ("model_state", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "mod.", "model.")  # DistributedDataParallel, weaver, Lightning

# Network -> keys that name it; their shapes, with the blocks', give its widths.
NETWORKS: dict[type[Any], tuple[str, ...]] = {
    LorentzNet: ("embedding.weight", "LGEBs.0.phi_e.0.weight", "graph_dec.3.weight"),
    EuclidNet: ("node_encoder.0.weight", "EB.phi_e.0.weight", "edge_mlp.0.weight"),
    EuclidNetSO3: ("EBs.0.phi_e.0.weight", "EBs.0.phi_m.0.weight", "edge_mlp.0.weight"),
    InteractionNetwork: ("R1.layers.0.weight", "O.layers.0.weight", "R2.layers.0.weight"),
    PELICANClassifier: ("linear.weight", "input_encoder.rank2_alphas", "net2to2.eq_layers.0.bias", "agg_2to0.bias"),
    PELICANRegressor: ("linear.weight", "input_encoder.rank2_alphas", "net2to2.eq_layers.0.bias", "agg_2to1.bias"),
    PELICANNano: ("net2to2.eq_layers.0.bias", "agg_2to0.bias"),
}

# Keywords that PELICAN's training scripts leave in a file, beside the state, under their own names.
AGGREGATION = ("config", "config_out", "activate_agg", "activate_lin", "activate_agg_out", "activate_lin_out")
OTHERS = ("activation", "scale", "dropout", "drop_rate", "drop_rate_out")
INPUTS = ("stabilizer", "method", "activate_agg_in", "activate_lin_in", "irc_safe")
ARGUMENTS: dict[type[Any], tuple[str, ...]] = {
    PELICANClassifier: (*AGGREGATION, *OTHERS, *INPUTS),
    PELICANRegressor: (*AGGREGATION, *OTHERS, *INPUTS),
    PELICANNano: (*AGGREGATION, *OTHERS, "add_beams"),
}
LEGACY = ("input_encoder.alphas", "message_layer.", "eq2to0.")  # PELICAN before 2023


def load_checkpoint(
    file: str | os.PathLike[str] | IO[bytes], *, dtype: torch.dtype | None = None, **options: Any
) -> nn.Module:
    """Builds the network a file holds, and fills it.

    The file is a state dict, or a dict with one under "model_state", "state_dict", "model_state_dict" or "model".
    Prefixes "module.", "mod." and "model." are taken off keys, as often as they occur. It is read with
    ``weights_only=True``: nothing in it is executed.

    Networks known, and what the tensors of their files do not tell, given as keywords:

    - LorentzNet: ``c_weight`` (required; 5e-3 for the published top tagger, 1e-3 for the quark/gluon one),
      ``dropout=0.2``, ``readout="padded_mean"``;
    - EuclidNet: ``c_weight=0.005``, ``n_graph_iters=5``; EuclidNetSO3: ``c_weight=0.005``;
    - InteractionNetwork: ``n_layers=1``;
    - PELICANClassifier, PELICANRegressor: ``stabilizer``, ``method``, ``config``, ``config_out``, ``average_nobj``
      (required), and whatever is not the class's default. What the training script stored beside the state, as "args",
      is read from there unless it is given;
    - PELICANNano: the same without ``stabilizer`` and ``method``.

    Args:
        file: a path or an open binary file.
        dtype: of the network; the file's by default.
        options: keywords of the network's ``from_state_dict``.

    Returns:
        The network, on the CPU, in training mode as any new module.

    Raises:
        ValueError: no known network; or keys missing, unexpected, or of the wrong shape, all of which are listed.
        TypeError: no state dict; a required keyword is missing or one is unknown.
    """
    content, arguments = _read(file)
    state = _published_keys(content)
    network = _recognise(state)
    model = network.from_state_dict(state, **{**_stored_options(network, arguments), **options})
    _check_keys(network.__name__, state, model.state_dict())
    model.to(dtype or _dtype(state))
    model.load_state_dict(state)
    return model


def _read(file: str | os.PathLike[str] | IO[bytes]) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """(state dict, the training script's arguments)."""
    # Training scripts like to store their argparse.Namespace: a plain holder of values, safe to rebuild.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(file, map_location="cpu", weights_only=True)
    arguments: Any = {}
    while isinstance(content, Mapping) and (inner := [k for k in WRAPPERS if isinstance(content.get(k), Mapping)]):
        arguments = content.get("args", arguments)
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        raise TypeError(f"load_checkpoint: file: expected a state dict, got {type(content).__name__}")
    strays = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strays or not content:
        raise TypeError(f"load_checkpoint: file: expected a state dict, got one with {strays[:8] or 'nothing'}")
    arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    return content, arguments if isinstance(arguments, Mapping) else {}


def _stored_options(network: type[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: arguments[name] for name in ARGUMENTS.get(network, ()) if name in arguments}
    if network in ARGUMENTS and "nobj_avg" in arguments:
        options["average_nobj"] = arguments["nobj_avg"]
    if network in ARGUMENTS and str(arguments.get("batchnorm"))[:1] in ("b", "i", "l"):
        options["batchnorm"] = arguments["batchnorm"]
    if "stabilizer" in options and arguments.get("dataset") in ("jc", "qg"):
        options["dataset"] = arguments["dataset"]
    return options


def _published_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        if name in stripped:
            raise ValueError(f"load_checkpoint: file: expected distinct keys, got {name!r} twice without prefixes")
        stripped[name] = value
    return stripped


def _recognise(state: Mapping[str, Tensor]) -> type[Any]:
    if old := [key for key in state if key.startswith(LEGACY)]:
        raise ValueError(f"load_checkpoint: file: expected a PELICAN of 2023 or later, got keys of 2022: {old[:8]}")
    absent = {network: [key for key in keys if key not in state] for network, keys in NETWORKS.items()}
    present = {network: len(NETWORKS[network]) - len(missing) for network, missing in absent.items()}
    network = max(NETWORKS, key=lambda n: (present[n], -len(absent[n])))
    missing = absent[network]
    if present[network] == 0:
        names = ", ".join(n.__name__ for n in NETWORKS)
        raise ValueError(f"load_checkpoint: file: expected keys of {names}, got {list(state)[:8]}")
    if missing:
        _refuse(network.__name__, [f"missing: {key}" for key in missing])
    return network


def _check_keys(network: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    problems = [f"missing: {key}" for key in expected if key not in state]
    problems += [f"unexpected: {key}" for key in state if key not in expected]
    problems += [
        f"shape: {key}: expected {list(expected[key].shape)}, got {list(value.shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if problems:
        _refuse(network, problems)


def _refuse(network: str, problems: list[str]) -> None:
    raise ValueError(f"load_checkpoint: file: expected the keys of {network}, got\n  " + "\n  ".join(problems))


def _dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    return next(value.dtype for value in state.values() if value.is_floating_point())
