"""Reads checkpoints of published networks: the content of the file determines the network and its widths."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from .checkpoint_file import Inert, read
from .models import (
    EuclidNet,
    EuclidNetSO3,
    InteractionNetwork,
    LorentzNet,
    PELICANClassifier,
    PELICANNano,
    PELICANRegressor,
)

# Parts of keys that wrappers insert anywhere: torch.compile, activation checkpoints, FullyShardedDataParallel.
INSERTED = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
PARALLEL = "module."  # DistributedDataParallel, AveragedModel
BESIDE = ("n_averaged",)  # AveragedModel's own

# Network -> keys that identify it; their shapes and those of the blocks give its widths.
NETWORKS: dict[type[Any], tuple[str, ...]] = {
    LorentzNet: ("embedding.weight", "LGEBs.0.phi_e.0.weight", "graph_dec.3.weight"),
    EuclidNet: ("node_encoder.0.weight", "EB.phi_e.0.weight", "edge_mlp.0.weight"),
    EuclidNetSO3: ("EBs.0.phi_e.0.weight", "EBs.0.phi_m.0.weight", "edge_mlp.0.weight"),
    InteractionNetwork: ("R1.layers.0.weight", "O.layers.0.weight", "R2.layers.0.weight"),
    PELICANClassifier: ("linear.weight", "input_encoder.rank2_alphas", "net2to2.eq_layers.0.bias", "agg_2to0.bias"),
    PELICANRegressor: ("linear.weight", "input_encoder.rank2_alphas", "net2to2.eq_layers.0.bias", "agg_2to1.bias"),
    PELICANNano: ("net2to2.eq_layers.0.bias", "agg_2to0.bias"),
}

# Keywords that PELICAN's training scripts store in a file next to the state, under their own names.
AGGREGATION = ("config", "config_out", "activate_agg", "activate_lin", "activate_agg_out", "activate_lin_out")
OTHERS = ("activation", "scale", "dropout", "drop_rate", "drop_rate_out")
INPUTS = ("stabilizer", "method", "activate_agg_in", "activate_lin_in", "irc_safe")
ARGUMENTS: dict[type[Any], tuple[str, ...]] = {
    PELICANClassifier: (*AGGREGATION, *OTHERS, *INPUTS),
    PELICANRegressor: (*AGGREGATION, *OTHERS, *INPUTS),
    PELICANNano: (*AGGREGATION, *OTHERS, "add_beams"),
}
LEGACY = ("input_encoder.alphas", "message_layer.", "eq2to0.")  # PELICAN before 2023


class Candidate(NamedTuple):
    """A network that a file may contain."""

    prefix: str  # of its keys, including the names of the enclosing dicts
    network: type[Any]
    missing: list[str]  # of the keys that identify it
    state: dict[str, Tensor]
    arguments: Mapping[str, Any]


def load_checkpoint(
    file: str | os.PathLike[str] | IO[bytes],
    *,
    prefix: str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """Builds the network of a file and loads its state.

    ``torch.save`` wrote the file: a state dict, alone or in dicts under any names ("model_state", "state_dict", ...),
    with keys under any prefix. Parts of keys that wrappers insert ("module.", "_orig_mod.") are removed. The required
    keys identify the network; keys and values outside its prefix (metrics, losses, optimizers) are ignored, all keys
    under it must belong to the network. The file is read with ``weights_only=True``: nothing in it is executed.
    Optimizers and schedulers of PyTorch are ignored, objects of other classes raise an error.

    Known networks, and the keywords that the tensors of their files do not determine:

    - LorentzNet: ``c_weight`` (required; 5e-3 for the published top tagger, 1e-3 for the quark/gluon one),
      ``dropout=0.2``, ``readout="padded_mean"``;
    - EuclidNet: ``c_weight=0.005``, ``n_graph_iters=5``; EuclidNetSO3: ``c_weight=0.005``;
    - InteractionNetwork: ``n_layers=1``;
    - PELICANClassifier, PELICANRegressor: ``stabilizer``, ``method``, ``config``, ``config_out``, ``average_nobj``
      (required), and keywords that differ from the class's defaults. Keywords that the training script stored in the
      file, as "args", are read from there unless they are given;
    - PELICANNano: the same without ``stabilizer`` and ``method``.

    Args:
        file: a path or an open binary file.
        prefix: of the network, if the file contains several (such as the model and its exponential moving average), for
            example ``"ema."``; the error lists them.
        dtype: of the network; the file's by default, float32 for files of 16 bits.
        options: keywords of the network's ``from_state_dict``.

    Returns:
        The network, on the CPU, in training mode like any new module.

    Raises:
        ValueError: no known network, or several; keys that are missing, unexpected, or of the wrong shape (all are
            listed); a file of another kind, or a damaged one.
        TypeError: no state dict; a required keyword is missing or one is unknown.
        pickle.UnpicklingError: the file contains objects of other classes, which the message names.
    """
    found = _choose(read(file), prefix)
    network, state = found.network, found.state
    model = network.from_state_dict(state, **{**_stored_options(network, found.arguments), **options})
    expected = model.state_dict()
    state = {key: value for key, value in state.items() if key in expected or key not in BESIDE}
    _check_keys(network.__name__, state, expected)
    model.to(dtype or _dtype(state))
    model.load_state_dict(state)
    return model


def _choose(content: Any, prefix: str | None) -> Candidate:
    if not isinstance(content, Mapping):
        raise TypeError(f"load_checkpoint: file: expected a state dict, got {type(content).__name__}")
    tables = list(_tables(content, "", {}, set()))
    if not tables:
        raise TypeError(f"load_checkpoint: file: expected a state dict, got one with {list(content)[:8] or 'nothing'}")
    candidates = [candidate for table in tables for candidate in _candidates(*table)]
    whole = [candidate for candidate in candidates if not candidate.missing]
    if prefix is not None:
        stem = prefix if prefix.endswith(".") or not prefix else f"{prefix}."
        chosen = [c for c in candidates if c.prefix == stem] or [
            c for c in whole if f".{c.prefix}".endswith(f".{stem}")
        ]
        if len(chosen) != 1:
            raise ValueError(f"load_checkpoint: prefix: expected one of {_listed(whole)}, got {prefix!r}")
        whole = candidates = chosen
    if len(whole) > 1:
        raise ValueError(f"load_checkpoint: file: expected one network, or prefix=..., got {_listed(whole)}")
    if whole and not whole[0].missing:
        return whole[0]
    keys = [key for _, table, _ in tables for key in table]
    if old := [key for key in keys if any(f".{name}" in f".{key}" for name in LEGACY)]:
        raise ValueError(f"load_checkpoint: file: expected a PELICAN of 2023 or later, got keys of 2022: {old[:8]}")
    if not candidates:
        names = ", ".join(n.__name__ for n in NETWORKS)
        raise ValueError(f"load_checkpoint: file: expected keys of {names}, got {keys[:8]}")
    nearest = max(candidates, key=lambda c: (len(NETWORKS[c.network]) - len(c.missing), -len(c.missing)))
    _refuse(nearest.network.__name__, [f"missing: {nearest.prefix}{key}" for key in nearest.missing])


def _listed(candidates: list[Candidate]) -> str:
    return ", ".join(f"{c.prefix!r} ({c.network.__name__})" for c in candidates) or "no whole network"


Table = tuple[str, dict[str, Tensor], Mapping[str, Any]]


def _tables(content: Mapping[Any, Any], path: str, arguments: Mapping[str, Any], seen: set[int]) -> Iterator[Table]:
    """Every dict of the file that has tensors: (names of the enclosing dicts, tensors, the script's arguments)."""
    if id(content) in seen:
        return
    seen.add(id(content))
    stored = content.get("args", arguments)
    stored = vars(stored) if isinstance(stored, argparse.Namespace) else stored
    arguments = stored if isinstance(stored, Mapping) else arguments
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield path, tensors, arguments
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            yield from _tables(value, f"{path}{key}.", arguments, seen)


def _candidates(path: str, table: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Iterator[Candidate]:
    """The networks of a dict, complete or partial: one for every prefix that has keys identifying a network."""
    state: dict[str, Tensor] = {}
    for key, value in table.items():
        name = _plain(key)
        if name in state:
            raise ValueError(f"load_checkpoint: file: expected distinct keys, got {name!r} twice without wrappers")
        state[name] = value
    if twice := [key for key in state if key.startswith(PARALLEL) and key.removeprefix(PARALLEL) in state]:
        name = twice[0].removeprefix(PARALLEL)
        raise ValueError(f"load_checkpoint: file: expected distinct keys, got {name!r} twice without wrappers")
    named = {key for keys in NETWORKS.values() for key in keys}
    prefixes = {key.removesuffix(name) for key in state for name in named if f".{key}".endswith(f".{name}")}
    for prefix in sorted(prefixes, key=lambda p: (len(p), p)):
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        missing = {network: [key for key in keys if key not in part] for network, keys in NETWORKS.items()}
        present = {network: len(NETWORKS[network]) - len(absent) for network, absent in missing.items()}
        network = max(NETWORKS, key=lambda n: (present[n], -len(missing[n])))
        if present[network] > len(missing[network]) or not prefix:
            yield Candidate(path + prefix, network, missing[network], part, arguments)


def _plain(key: str) -> str:
    """A key without the parts that wrappers insert; a leading "module." stays, as part of the prefix."""
    for inserted in INSERTED:
        key = key.replace(inserted, "")
    first = PARALLEL if key.startswith(PARALLEL) else ""
    return first + f".{key.removeprefix(first)}".replace(f".{PARALLEL}", ".").removeprefix(".")


def _stored_options(network: type[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in arguments.items() if not isinstance(value, Inert)}
    options = {name: arguments[name] for name in ARGUMENTS.get(network, ()) if name in arguments}
    if network in ARGUMENTS and "nobj_avg" in arguments:
        options["average_nobj"] = arguments["nobj_avg"]
    if network in ARGUMENTS and str(arguments.get("batchnorm"))[:1] in ("b", "i", "l"):
        options["batchnorm"] = arguments["batchnorm"]
    if "stabilizer" in options and arguments.get("dataset") in ("jc", "qg"):
        options["dataset"] = arguments["dataset"]
    return options


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


def _refuse(network: str, problems: list[str]) -> NoReturn:
    raise ValueError(f"load_checkpoint: file: expected the keys of {network}, got\n  " + "\n  ".join(problems))


def _dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """The widest dtype of the file, at least float32."""
    found = {value.dtype for value in state.values() if value.is_floating_point()}
    return torch.float64 if torch.float64 in found else torch.float32
