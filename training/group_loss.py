"""From descriptors to the loss of a group, with one head or one that is split over processes."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import commons
from cosface_loss import MarginCosineProduct, cosines
from training.collectives import gather_batches, own_rows, sum_over_processes


class GroupLoss(nn.Module):
    """Cross-entropy of the logits of a whole head."""

    def __init__(self, head: MarginCosineProduct) -> None:
        """Put the loss on a head."""
        super().__init__()
        self.head = head

    def forward(self, descriptors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of [B, D] descriptors with int64 [B] labels."""
        return F.cross_entropy(self.head(descriptors, labels), labels)


class ShardedGroupLoss(nn.Module):
    """The same loss over the batches of all processes, each with the weights of some classes.

    A head of C classes and D dimensions, its gradient and its optimizer's state take 16 C D bytes;
    here each process has its share of them. Logits are shared as two numbers an image.
    """

    def __init__(self, head: MarginCosineProduct, num_classes: int) -> None:
        """Put the loss on this process's rows of a head of `num_classes`."""
        super().__init__()
        self.head = head
        self.rows = own_rows(num_classes)

    def forward(self, descriptors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the [B, D] descriptors of all processes together.

        All processes get the same loss. Its gradients are meant for DistributedDataParallel, which
        takes their mean over processes.
        """
        labels = gather_batches(labels)
        logits = self.logits(gather_batches(descriptors.float()), labels)
        largest = logits.detach().amax(dim=1)
        if commons.num_ranks() > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        sums = sum_over_processes((logits - largest[:, None]).exp().sum(dim=1))
        own_labels, is_own = self._own(labels)
        of_label = logits.gather(1, own_labels[:, None])[:, 0] * is_own
        return (largest + sums.log() - sum_over_processes(of_label)).mean()

    def logits(self, descriptors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the logits of this process's classes.

        Args:
            descriptors: Of all processes. float32 [num_ranks * B, D].
            labels: Among all classes. int64 [num_ranks * B].

        Returns:
            float32 [num_ranks * B, number of own classes].
        """
        weight = self.head.weight.view_as(self.head.weight)
        if weight.requires_grad:
            # Each process passes back the same loss, and sums over processes add that up. The mean
            # over processes, which undoes it for the network, is not taken of own rows.
            weight.register_hook(lambda gradient: gradient / commons.num_ranks())
        own_labels, is_own = self._own(labels)
        margins = torch.zeros(len(labels), len(weight), device=labels.device)
        margins.scatter_(1, own_labels[:, None], self.head.m * is_own[:, None])
        return self.head.s * (cosines(descriptors, weight) - margins)

    def _own(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return labels counted from the first own class, 0 for others, and which are own."""
        own_labels = labels - self.rows.start
        is_own = (own_labels >= 0) & (own_labels < self.rows.stop - self.rows.start)
        return own_labels * is_own, is_own
