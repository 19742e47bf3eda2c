"""How large a network is and how much work one image takes: parameters and multiply-adds."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """All parameters, trained or frozen; the running statistics of batch norms are none."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-adds of one image of `size` x `size` pixels in convolutions, linear layers and attention.

    Biases, norms, activations and pooling are left out, as papers do. The network runs once, on its own device, and
    is left in the mode it was in.
    """
    pixels = torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
    training = network.training
    network.eval()
    # Fused attention is one operation, which the counter does not know on every device; this takes it apart.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(pixels)
    network.train(training)
    return counter.get_total_flops() // 2  # torch counts the multiplication and the addition as two
