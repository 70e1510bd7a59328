"""BatchNorm whose statistics are those of the batches of all processes together."""

import copy
from itertools import chain

import torch
from torch import nn

import commons
from training.collectives import sum_over_processes


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the batches of all processes, on a CPU, where PyTorch has none.

    It shares parameters and statistics with the layer that it stands for. All processes must have
    batches of one size.
    """

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        """Take the place of a layer, its activation included if it has one, as timm's."""
        super().__init__(layer.num_features, layer.eps, layer.momentum, affine=False)
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.after = nn.Sequential(
            *(getattr(layer, name, nn.Identity()) for name in ("drop", "act"))
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise [B, C, H, W]; move the running statistics if in training mode."""
        if not self.training:
            return self.after(super().forward(images))
        per_channel = (1, -1, 1, 1)
        count = images.numel() // images.shape[1] * commons.num_ranks()
        values = images.float()
        mean = sum_over_processes(values.sum((0, 2, 3))) / count
        centred = values - mean.view(per_channel)
        variance = sum_over_processes(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised = centred * scale.view(per_channel) + self.bias.view(per_channel)
        return self.after(normalised.to(images.dtype))


def with_synced_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a network that shares all tensors with another one and normalises over processes."""
    tensors = chain(network.parameters(), network.buffers())
    twin = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    if device.type == "cpu":
        _replace(twin)
        return twin
    from timm.layers import convert_sync_batchnorm  # torch's, and that of timm's own layers

    return convert_sync_batchnorm(twin)


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SyncedBatchNorm2d(child))
        else:
            _replace(child)
