"""Training-time transforms of a whole batch of images, on whatever device the batch lives.

Everything random is drawn from one `torch.Generator`, so a run can be repeated and resumed. The steps a recipe
can ask for are the fields of `Augment`; a field left at its default does nothing. What is *not* here: mixup
(it needs the labels, see `finetune`) and anything done to images at test time.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor
from torch.nn import functional as F

# ITU-R BT.601 luma, what Pillow's convert("L") uses.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augment:
    """Ranges of the random transforms; each image draws its own values.

    Geometry is one affine resampling (bilinear), so several steps cost one interpolation.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rotate: float = 0.0  # degrees, uniform in [-rotate, rotate]
    horizontal_flip: bool = False
    vertical_flip: bool = False
    shift: float = 0.0  # fraction of the width and of the height
    scale: tuple[float, float] = (1.0, 1.0)  # magnification, log-uniform
    shear: float = 0.0  # degrees
    sharp_share: float = 0.0  # share of images that only get flips and quarter turns: no interpolation blur
    fill: str = "zeros"  # outside the image: "zeros", "border" or "reflection"
    brightness: tuple[float, float] = (1.0, 1.0)  # factor, uniform
    channel_gain: float = 0.0  # standard deviation of log gain, one draw per channel (tint)
    gamma: float = 0.0  # standard deviation of log gamma
    saturation: tuple[float, float] = (1.0, 1.0)  # 0 is grey, 1 unchanged, uniform
    grey: float = 0.0  # probability of removing colour altogether
    blur: float = 0.0  # largest Gaussian blur, pixels of sigma; half of the images get a uniform draw
    noise_levels: tuple[float, ...] = ()  # sigma drawn from these in equal shares, 0 to 255 scale
    noise_max: float = 0.0  # or: sigma uniform in [0, noise_max] for `noise_share` of the images
    noise_share: float = 0.5


def apply(augment: Augment, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return randomly transformed copies of `images`.

    `images` is uint8 or float (N, 3, H, W) on the 0 to 255 scale; the result is float32 on the same scale,
    clipped to 0..255. `generator` lives on the CPU whatever the device, so that runs on any device draw alike.
    """
    x = images.float()
    x = _geometry(augment, x, generator)
    x = _colour(augment, x, generator)
    if augment.blur:
        x = _blur(augment, x, generator)
    x = _noise(augment, x, generator)
    return x.clamp(0, 255)


def desaturate(images: Tensor) -> Tensor:
    """Remove the saturation of HSV, keeping the value (the largest channel), as MobileNet_M's paper does."""
    return images.amax(dim=1, keepdim=True).expand_as(images)


def _uniform(n: int, low: float, high: float, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.empty(n).uniform_(low, high, generator=generator).to(like.device)


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator).to(like.device)


def _geometry(a: Augment, x: Tensor, g: torch.Generator) -> Tensor:
    n = len(x)
    if a.horizontal_flip:
        x = torch.where(_uniform(n, 0, 1, g, x).lt(0.5).view(n, 1, 1, 1), x.flip(3), x)
    if a.vertical_flip:
        x = torch.where(_uniform(n, 0, 1, g, x).lt(0.5).view(n, 1, 1, 1), x.flip(2), x)
    if not (a.rotate or a.shift or a.shear or a.scale != (1.0, 1.0)):
        return x
    angle = _uniform(n, -a.rotate, a.rotate, g, x) * (math.pi / 180)
    shear = torch.tan(_uniform(n, -a.shear, a.shear, g, x) * (math.pi / 180))
    zoom = torch.exp(-_uniform(n, math.log(a.scale[0]), math.log(a.scale[1]), g, x))
    dx = _uniform(n, -2 * a.shift, 2 * a.shift, g, x)
    dy = _uniform(n, -2 * a.shift, 2 * a.shift, g, x)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([zoom * cos, zoom * (shear * cos - sin), dx], 1),
            torch.stack([zoom * sin, zoom * (shear * sin + cos), dy], 1),
        ],
        1,
    )
    warped = torch.empty_like(x)
    sharp = _uniform(n, 0, 1, g, x) < a.sharp_share
    if a.sharp_share:
        turns = torch.randint(0, 4, (n,), generator=g)
        for k in range(4):
            chosen = sharp & (turns == k).to(x.device)
            if chosen.any():
                warped[chosen] = torch.rot90(x[chosen], k, (2, 3))
    if (~sharp).any():
        source = x[~sharp]
        grid = F.affine_grid(theta[~sharp], list(source.shape), align_corners=False)
        warped[~sharp] = F.grid_sample(source, grid, mode="bilinear", padding_mode=a.fill, align_corners=False)
    return warped


def _colour(a: Augment, x: Tensor, g: torch.Generator) -> Tensor:
    n = len(x)
    if a.gamma:
        exponent = torch.exp(a.gamma * _normal((n, 1, 1, 1), g, x))
        x = 255 * (x / 255).clamp(min=0).pow(exponent)
    if a.saturation != (1.0, 1.0) or a.grey:
        luma = (x * torch.tensor(_LUMA, device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
        keep = _uniform(n, *a.saturation, g, x)
        keep = torch.where(_uniform(n, 0, 1, g, x) < a.grey, torch.zeros_like(keep), keep)
        x = torch.lerp(luma.expand_as(x), x, keep.view(n, 1, 1, 1))
    gain = torch.ones(n, 1, 1, 1, device=x.device)
    if a.brightness != (1.0, 1.0):
        gain = gain * _uniform(n, *a.brightness, g, x).view(n, 1, 1, 1)
    if a.channel_gain:
        gain = gain * torch.exp(a.channel_gain * _normal((n, 3, 1, 1), g, x))
    return x * gain


def _blur(a: Augment, x: Tensor, g: torch.Generator) -> Tensor:
    n, c, h, w = x.shape
    sigma = _uniform(n, 0.3, a.blur, g, x)
    chosen = _uniform(n, 0, 1, g, x) < 0.5
    if not chosen.any():
        return x
    radius = max(1, math.ceil(2.5 * a.blur))
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma[chosen].view(-1, 1)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    kernel = kernel.repeat_interleave(c, 0)
    groups = len(kernel)
    y = x[chosen].reshape(1, groups, h, w)
    y = F.conv2d(y, kernel.view(groups, 1, 1, -1), padding=(0, radius), groups=groups)
    y = F.conv2d(y, kernel.view(groups, 1, -1, 1), padding=(radius, 0), groups=groups)
    x = x.clone()
    x[chosen] = y.reshape(-1, c, h, w)
    return x


def _noise(a: Augment, x: Tensor, g: torch.Generator) -> Tensor:
    n = len(x)
    if a.noise_levels:
        sigma = torch.tensor(a.noise_levels)[torch.randint(len(a.noise_levels), (n,), generator=g)].to(x.device)
    elif a.noise_max:
        sigma = _uniform(n, 0, a.noise_max, g, x)
        sigma = torch.where(_uniform(n, 0, 1, g, x) < a.noise_share, sigma, torch.zeros_like(sigma))
    else:
        return x
    noisy = sigma > 0
    if not noisy.any():
        return x
    x = x.clone()
    # Rounded and clipped like an image file with that noise, which is what the model meets at test time.
    field = _normal((int(noisy.sum()), *x.shape[1:]), g, x)
    x[noisy] = (x[noisy] + sigma[noisy].view(-1, 1, 1, 1) * field).round().clamp(0, 255)
    return x
