"""The training of a network as a LightningModule."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from ..backend import use_backend
from .config import Config
from .schedules import schedule_of
from .tasks import TASKS, build


class Classifier(lightning.LightningModule):
    """A network, its loss, its optimizer and what is reported of it.

    Metrics are made once an epoch of all scores, gathered from all processes, never of batches.

    Args:
        config: as :meth:`Config.as_dict` gives it; kept in checkpoints.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters({"config": config})
        self.config = Config.of(config)
        self.task = TASKS[self.config.network]
        self.formula = self.config.backend == "published"
        self.network = _network(self.config)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []  # score, label, loss times events

    def forward(self, batch: Any) -> Tensor:
        """The network's output for a batch of :class:`JetData` or :class:`HitData`."""
        dtype = next(self.network.parameters()).dtype
        arguments = self.task.arguments(batch, dtype, self.formula)
        with use_backend("reference" if self.config.backend == "reference" else "auto"):
            out: Tensor = self.network(*arguments)
        return out

    def training_step(self, batch: Any, number: int) -> Tensor:
        label = self.task.label(batch)
        loss = self.task.loss(self(batch), label)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(label), sync_dist=True)
        return loss

    def validation_step(self, batch: Any, number: int) -> None:
        out, label = self(batch), self.task.label(batch)
        self.seen.append((self.task.score(out).double(), label, self.task.loss(out, label).double() * len(label)))

    def on_validation_epoch_end(self) -> None:
        self._report("validation")

    def test_step(self, batch: Any, number: int) -> None:
        self.validation_step(batch, number)

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def predict_step(self, batch: Any, number: int) -> Tensor:
        return self.task.score(self(batch))

    def configure_optimizers(self) -> Any:
        t = self.config.training
        options: dict[str, Any] = {"lr": t.learning_rate, "weight_decay": t.weight_decay, "amsgrad": t.amsgrad}
        optimizer = getattr(torch.optim, t.optimizer)(self.network.parameters(), **options)
        schedule = schedule_of(t.schedule, t.schedule_options)
        # in this run, which may end before or after t.epochs
        steps = self.trainer.estimated_stepping_batches / (self.trainer.max_epochs or t.epochs)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / steps, t.epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = torch.get_rng_state()  # dropout goes on where it was

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "random_state" in checkpoint:
            torch.set_rng_state(checkpoint["random_state"].cpu())

    def _report(self, stage: str) -> None:
        score, label = (torch.cat([part[k] for part in self.seen]) for k in (0, 1))
        loss = torch.stack([part[2] for part in self.seen]).sum()
        self.seen.clear()
        if self.trainer.world_size > 1:
            score, label = (_gathered(t, self) for t in (score, label))
            loss = torch.as_tensor(self.all_gather(loss)).sum()
        found = {"loss": loss.item() / len(label), **self.task.summary(score, label)}
        self.log_dict({f"{stage}_{name}": value for name, value in found.items()}, rank_zero_only=True, sync_dist=False)
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            self.print(line(stage, self.current_epoch, found))


def _network(config: Config) -> nn.Module:
    """With fresh weights, the same ones for every backend."""
    network = build(config.network, config.options, "equikernels")
    if config.backend != "published":
        return network
    state = torch.get_rng_state()
    formula = build(config.network, config.options, "published")
    torch.set_rng_state(state)
    formula.load_state_dict(network.state_dict())
    return formula


def line(stage: str, epoch: int, found: dict[str, float]) -> str:
    """What a log says of an epoch."""
    text = f"{stage:10s} epoch {epoch + 1:3d}  loss {found['loss']:.4f}"
    if "accuracy" not in found:
        rest = {name: value for name, value in found.items() if name not in ("loss", "events")}
        return text + "".join(f"  {name} {value:.4f}" for name, value in rest.items())
    text += f"  accuracy {found['accuracy']:.4f}"
    if "auc" in found:
        text += f"  AUC {found['auc']:.4f}"
        bound = "> " if found["rejection_0.3_bound"] else ""
        text += f"  1/eps_B(0.3) {bound}{found['rejection_0.3']:.0f}"
    return text


def _gathered(t: Tensor, module: lightning.LightningModule) -> Tensor:
    """A tensor of all processes, one after the other; lengths may differ."""
    sizes = torch.as_tensor(module.all_gather(torch.tensor(len(t), device=t.device))).flatten().tolist()
    padded = t.new_zeros(max(sizes), *t.shape[1:])
    padded[: len(t)] = t
    whole = torch.as_tensor(module.all_gather(padded)).reshape(len(sizes), *padded.shape)
    return torch.cat([row[:size] for row, size in zip(whole, sizes, strict=True)])
