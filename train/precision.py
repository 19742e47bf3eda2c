"""The number format of training, bf16 where the device multiplies faster in it, and other settings for speed."""

import torch
from torch import Tensor, nn


def best_precision() -> str:
    """ "bf16" on a GPU or CPU with instructions for it, else "fp32"."""
    return "bf16" if fast_in_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu")) else "fp32"


def fast_in_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies matrices of bf16 faster than of fp32."""
    on_gpu, on_cpu = torch.cuda.is_bf16_supported, torch.ops.mkldnn._is_mkldnn_bf16_supported
    return bool(on_gpu() if device.type == "cuda" else on_cpu())


def quicken_on_cpu(network: nn.Module, precision: str) -> None:
    """Make the training steps of a network faster on a CPU, in place; it computes the same.

    In place, ReLU6 is slower: autograd has to copy its input first. In bf16, the backward pass of depthwise
    convolutions with a stride takes 3 to 20 times as long as in fp32, so these ignore autocast.
    """

    def in_fp32(convolution: nn.Conv2d, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return nn.Conv2d.forward(convolution, x.float())

    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = False
        elif precision == "bf16" and type(module) is nn.Conv2d and module.groups > 1 and max(module.stride) > 1:
            module.forward = in_fp32.__get__(module)
