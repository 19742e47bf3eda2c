"""Making a network care less about who a cell is from: a penalty on its features, and mixed channel statistics."""

import torch
from torch import Tensor, nn


class PooledFeatures:
    """Keeps what reaches the last linear layer: `last`, (N, F), of the latest batch."""

    def __init__(self, linear: nn.Module):
        self.last = torch.empty(0)
        self._hook = linear.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        self.last = inputs[0]

    def remove(self) -> None:
        self._hook.remove()


def group_spread(features: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """How far apart the groups of a class lie, 0 (all have one centre) to 1 (each is one point): the scatter between
    groups as a share of all scatter, averaged over the classes that have two groups or more in the batch.

    Args:
        features: (N, F). labels, groups: (N,) int.
    """
    features = features.float()
    shares = []
    for label in labels.unique():
        mine = features[labels == label]
        _, group = groups[labels == label].unique(return_inverse=True)
        n_groups = int(group.max()) + 1
        if n_groups < 2:
            continue
        counts = torch.bincount(group, minlength=n_groups).unsqueeze(1).to(mine.dtype)
        centres = torch.zeros(n_groups, mine.shape[1], dtype=mine.dtype, device=mine.device)
        centres = centres.index_add(0, group, mine) / counts
        middle = mine.mean(0)
        between = (counts * (centres - middle) ** 2).sum()
        shares.append(between / ((mine - middle) ** 2).sum().clamp_min(1e-6))
    return torch.stack(shares).mean() if shares else features.sum() * 0


class MixStyle:
    """Mixes mean and standard deviation of each channel between images, which stain and light change, after the first
    two stages of a timm network with `blocks`, in half of the training batches (Zhou et al. 2021, arXiv:2104.02008)."""

    def __init__(self, network: nn.Module, alpha: float):
        self.alpha = alpha
        self._share: Tensor | None = None
        self._other = torch.empty(0, dtype=torch.long)
        self._hooks = [stage.register_forward_hook(self._mix) for stage in network.get_submodule("blocks")[:2]]

    def draw(self, n: int, generator: torch.Generator) -> None:
        """Draw for the next batch of `n` images whether, with whom and how far each is mixed."""
        self._share = None
        if torch.rand((), generator=generator) < 0.5:
            return
        seed = int(torch.randint(2**31, (), generator=generator))
        gamma = torch.distributions.Beta(self.alpha, self.alpha)
        with torch.random.fork_rng(devices=[]):  # a distribution takes no generator of its own
            torch.manual_seed(seed)
            self._share = gamma.sample((n, 1, 1, 1))
        self._other = torch.randperm(n, generator=generator)

    def _mix(self, module: nn.Module, inputs: tuple[Tensor], x: Tensor) -> Tensor:
        if not module.training or self._share is None:
            return x
        share, other = self._share.to(x.device, x.dtype), self._other.to(x.device)
        mean = x.mean((2, 3), keepdim=True).detach()
        std = x.var((2, 3), keepdim=True).add(1e-6).sqrt().detach()
        mixed_mean = share * mean + (1 - share) * mean[other]
        mixed_std = share * std + (1 - share) * std[other]
        return (x - mean) / std * mixed_std + mixed_mean

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
