"""The LightningModule around the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detector.core.structures import ClassMap, Target, TensorPrediction
from detector.evaluation.metric import DetectionMetric
from detector.models.faster_rcnn import FasterRCNN
from detector.training.options import OptimiserOptions

# Key of our own content in a checkpoint, beside Lightning's keys.
CHECKPOINT_KEY = "detector"


NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


class DetectionTask(pl.LightningModule):
    """Trains and evaluates a detector.

    Args:
        network: The detector.
        classes: Classes of the detector.
        optimiser: Options of the optimiser; `finetune.StagedFinetuning` sets learning rates.
        config: Configuration of the run as plain data, saved in checkpoints.
        seed: Seed of the sampling of anchors and proposals in training.

    Attributes:
        trained_on: Fingerprints of the training images, and of those that the initial weights were
            trained on (see `checkpoint.pack_fingerprints`). They are saved in checkpoints, so that
            an evaluation on the same images is noticed.
        chosen_on: Fingerprints of the validation images.
        pretrained: Weights of convolutions and linear layers that `optim.l2_sp` pulls towards, by
            name. They are saved in checkpoints; None where there is no such pull.
    """

    def __init__(
        self,
        network: FasterRCNN,
        classes: ClassMap,
        optimiser: OptimiserOptions,
        config: dict[str, Any],
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.optimiser = optimiser
        self.config = config
        self.seed = seed
        self.metric = DetectionMetric(len(classes))
        self.trained_on: Tensor | None = None
        self.chosen_on: Tensor | None = None
        self.pretrained: dict[str, Tensor] | None = None

    def remember_pretrained(self, names: Collection[str]) -> None:
        """Take the network's present weights for those that `optim.l2_sp` pulls towards.

        Args:
            names: Names of the network's pretrained tensors.
        """
        self.pretrained = {
            name: parameter.detach().clone()
            for name, parameter in self.network.named_parameters()
            if name in names and _is_kernel(name, parameter)
        }

    def on_train_start(self) -> None:
        """Bring the pretrained weights to the device of the network."""
        if self.pretrained is not None:
            self.pretrained = {n: weight.to(self.device) for n, weight in self.pretrained.items()}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Derive random numbers from seed, epoch, step and process: a resumed run has the same."""
        key = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def training_step(
        self, batch: tuple[list[Tensor], list[Target]], batch_idx: int
    ) -> dict[str, Tensor]:
        """Compute the detector's losses as `loss_<part>` and their sum as `loss`, and log them."""
        images, targets = batch
        parts = self.network(images, [{"boxes": t.boxes, "labels": t.labels} for t in targets])
        losses: dict[str, Tensor] = {
            f"loss_{name.removeprefix('loss_')}": value.float() for name, value in parts.items()
        }
        if self.optimiser.l1:
            losses["loss_l1"] = self.optimiser.l1 * _l1_norm(self.network)
        if self.pretrained is not None:
            distance = _squared_distance(self.network, self.pretrained)
            losses["loss_l2_sp"] = self.optimiser.l2_sp / 2 * distance
        losses["loss"] = torch.stack(list(losses.values())).sum()
        self.log_dict(
            {f"train/{name}": value for name, value in losses.items()},
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=len(images),
            logger=False,  # `RunProgress` logs what it writes into metrics.csv
        )
        return losses

    def predict(self, images: list[Tensor], scales: list[Tensor]) -> list[TensorPrediction]:
        """Detect objects.

        Args:
            images: Images, each `(C, H, W)` uint8 and resized to the network's input.
            scales: For each image `(2,)`, the factors from original to input pixels for x and y.

        Returns:
            Predictions in original pixels.
        """
        return [
            TensorPrediction(
                row["boxes"].float() / scale.repeat(2), row["labels"], row["scores"].float()
            )
            for row, scale in zip(self.network(images), scales, strict=True)
        ]

    def validation_step(self, batch: tuple[list[Tensor], list[Target]], batch_idx: int) -> None:
        """Run the detector on a batch and add the predictions to the metric."""
        images, targets = batch
        self.metric.update(self.predict(images, [t.scale for t in targets]), targets)

    test_step = validation_step

    def predict_step(
        self, batch: tuple[list[Tensor], list[Target]], batch_idx: int
    ) -> list[TensorPrediction]:
        """Run the detector on a batch; predictions are in original pixels."""
        images, targets = batch
        return self.predict(images, [t.scale for t in targets])

    def on_validation_epoch_start(self) -> None:
        """Reset the metric."""
        self._begin(self.trainer.val_dataloaders, self.trainer.limit_val_batches)

    def on_test_epoch_start(self) -> None:
        """Reset the metric."""
        self._begin(self.trainer.test_dataloaders, self.trainer.limit_test_batches)

    def _begin(self, loader: Any, limit: float) -> None:
        """Reset the metric, which expects every image of a split unless batches are limited."""
        self.metric.reset()
        whole = isinstance(limit, float) and limit == 1.0
        self.metric.expected = len(loader.dataset) if whole else None

    def on_validation_epoch_end(self) -> None:
        """Log the scores as `val/<name>`."""
        # The scores are equal in all processes: the metric has gathered the predictions.
        scores = {f"val/{name}": value for name, value in self.metric.compute().items()}
        self.log_dict(scores, logger=False)

    def on_test_epoch_end(self) -> None:
        """Gather the predictions of all processes in the first one (`metric.evaluation`)."""
        self.metric.compute()

    def on_train_epoch_end(self) -> None:
        """Stop before weights that are not finite replace good ones in the checkpoints.

        Raises:
            FloatingPointError: If the epoch's loss is not finite.
        """
        loss = self.trainer.callback_metrics.get("train/loss")  # of all processes
        if loss is not None and not torch.isfinite(loss):
            kept = "the checkpoints are those of the epoch before"
            raise FloatingPointError(
                f"the loss became {float(loss)} in epoch {self.current_epoch + 1}: a lower "
                f"optim.lr may help; {kept if self.current_epoch else 'no epoch was finished'}"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Create the optimiser of all groups, with one entry for each weight decay of a group.

        Learning rates are 0 until `finetune.StagedFinetuning` sets them.
        """
        groups: list[dict[str, Any]] = []
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        for name, modules in self.network.groups().items():
            by_decay: dict[float, list[nn.Parameter]] = {}
            for module in modules:
                for child in module.modules():
                    for key, parameter in child.named_parameters(recurse=False):
                        pulled = names.get(id(parameter)) in (self.pretrained or {})
                        decay = 0.0 if pulled else self._decay(child, key, parameter)
                        by_decay.setdefault(decay, []).append(parameter)
            groups += [
                {"params": params, "group": name, "weight_decay": decay, "lr": 0.0}
                for decay, params in by_decay.items()
            ]
        _check_partition(self.network, groups)
        # On a CPU, update all weights in one pass; on GPUs, torch chooses.
        fused = True if self.device.type == "cpu" else None
        optimiser: torch.optim.Optimizer
        if self.optimiser.name == "sgd":
            momentum = self.optimiser.momentum
            optimiser = torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=fused)
        else:
            optimiser = torch.optim.AdamW(groups, lr=0.0, fused=fused)
        # A fused optimiser could unscale the gradients of mixed precision itself, but then they
        # could not be clipped before, which Lightning refuses. So Lightning unscales them.
        optimiser._step_supports_amp_scaling = False
        return optimiser

    def _decay(self, module: nn.Module, name: str, parameter: nn.Parameter) -> float:
        """Weight decay of a parameter that belongs to a module itself."""
        if _is_kernel(name, parameter):
            return self.optimiser.weight_decay
        bias = name == "bias" and not isinstance(module, NORMS)
        return self.optimiser.weight_decay_bias if bias else self.optimiser.weight_decay_norm

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what is needed to build this module again, as plain data."""
        checkpoint[CHECKPOINT_KEY] = {
            "config": self.config,
            "classes": {"names": list(self.classes.names), "ids": list(self.classes.ids)},
            "trained_on": self.trained_on,
            "chosen_on": self.chosen_on,
            "pretrained": self.pretrained,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the pretrained weights that the run began with."""
        self.pretrained = checkpoint[CHECKPOINT_KEY].get("pretrained")


def _is_kernel(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the weight of a convolution or a linear layer.

    ConvNeXt's scales and Swin's tables of relative positions also have several axes, but other
    names.
    """
    return name.split(".")[-1] == "weight" and parameter.ndim > 1


def _l1_norm(network: nn.Module) -> Tensor:
    """L1 norm of the trained weights of convolutions and linear layers."""
    weights = [p for n, p in network.named_parameters() if p.requires_grad and _is_kernel(n, p)]
    return torch.stack([weight.abs().sum() for weight in weights]).sum()


def _squared_distance(network: nn.Module, pretrained: Mapping[str, Tensor]) -> Tensor:
    """Squared distance of the trained weights from the pretrained ones."""
    trained = ((n, p) for n, p in network.named_parameters() if p.requires_grad)
    pairs = [(weight, pretrained[name]) for name, weight in trained if name in pretrained]
    if not pairs:  # a phase that trains none of them
        return next(network.parameters()).new_zeros(())
    return torch.stack([(weight - start).square().sum() for weight, start in pairs]).sum()


def _check_partition(network: nn.Module, groups: list[dict[str, Any]]) -> None:
    """Refuse groups in which a parameter of the network is missing or present more than once."""
    held = Counter(id(parameter) for group in groups for parameter in group["params"])
    for name, parameter in network.named_parameters():
        if held.pop(id(parameter), 0) != 1:
            raise ValueError(f"{name} must belong to exactly one group of the network")
    if held:
        raise ValueError("a group has parameters that are not the network's")
