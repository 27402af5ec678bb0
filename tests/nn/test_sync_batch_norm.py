"""PELICAN's norms over the pairs of two processes: numbers and gradients of one process with both batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import equikernels as ek
from equikernels.nn import SyncBatchNorm
from equikernels.nn.pelican import PairBatchNorm

from ..support.cases import four_vectors
from ..support.golden import filled
from ..support.process import run_two

NETWORK = (
    "ek.models.PELICANClassifier(num_channels_scalar=2, num_channels_m=[[5], [5]], num_channels_2to2=[4, 4], "
    "num_channels_out=[6], num_channels_m_out=[5, 4], batchnorm='b', config='M', config_out='M', average_nobj=6)"
)

# What one of two processes does; it sees nothing of this file.
PROCESS = f"""
import sys
import torch
import equikernels as ek

rank, directory = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{{directory}}/store", rank=rank, world_size=2)
batch = torch.load(f"{{directory}}/in{{rank}}.pt", weights_only=True)
network = {NETWORK}.double()
network.load_state_dict(batch["network"])
ek.nn.SyncBatchNorm.convert(network)
if batch["hook"]:  # the block's own forward
    network.net2to2.message_layers[0].normlayer.register_forward_hook(lambda module, given, out: None)
p4 = batch["p4"].requires_grad_()
out = network(p4, batch["ptr"])
out.sin().sum().backward()
torch.save([[out.detach(), p4.grad, *network.buffers()], [p.grad for p in network.parameters()]],
           f"{{directory}}/out{{rank}}.pt")
torch.distributed.barrier()  # no process ends while another still talks to it
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("sizes", "hook"), [(([0, 4, 8, 12], [0, 3, 6]), False), (([0, 5, 9], [0, 1]), True), (([0, 5, 9], [0, 0]), False)]
)
def test_pairs_of_two_processes_are_those_of_one(
    sizes: tuple[list[int], list[int]], hook: bool, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(3)
    network = filled(eval(NETWORK, {"ek": ek}).double())
    batches = []
    for rank, ptr in enumerate(sizes):
        batch = {"p4": four_vectors(ptr[-1], generator), "ptr": torch.tensor(ptr), "hook": hook}
        batches.append(batch)
        torch.save({**batch, "network": network.state_dict()}, tmp_path / f"in{rank}.pt")
    run_two(PROCESS, tmp_path)

    first, second = sizes
    p4 = torch.cat([batch["p4"] for batch in batches]).requires_grad_()
    out = network(p4, torch.tensor([*first, *(first[-1] + p for p in second[1:])]))
    out.sin().sum().backward()
    assert p4.grad is not None
    saved = [torch.load(tmp_path / f"out{rank}.pt", weights_only=True) for rank in range(2)]
    close = {"rtol": 1e-9, "atol": 1e-9}
    for rank, (found, _) in enumerate(saved):
        events, rows = (slice(0, k[0]) if rank == 0 else slice(k[0], None) for k in ([len(first) - 1], [first[-1]]))
        for ours, theirs in zip(found, [out[events].detach(), p4.grad[rows], *network.buffers()], strict=True):
            torch.testing.assert_close(ours, theirs, **close)
    for (name, parameter), *grads in zip(network.named_parameters(), *(grads for _, grads in saved), strict=True):
        torch.testing.assert_close(grads[0] + grads[1], parameter.grad, **close, msg=lambda m, n=name: f"{n}: {m}")


def test_convert_leaves_a_single_process_as_it_was() -> None:
    norm = PairBatchNorm(3).double()
    rows = torch.randn(7, 3, dtype=torch.float64)
    expected = norm(rows)
    norm.reset_running_stats()
    assert SyncBatchNorm.convert(norm) is norm
    assert norm.synchronised
    assert not PairBatchNorm(3).synchronised
    assert torch.equal(norm(rows), expected)
