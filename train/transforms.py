"""Training-time transforms of a whole batch of images, on the device of the batch.

Everything random is drawn from one `torch.Generator`, so a run can be repeated and resumed. The steps a recipe
can ask for are the fields of `train.recipe.Augment`; a field left at its default does nothing.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from blastlens.corruptions.colour import BLACK, DYES, FROM_YCC, OF_DYES, TO_YCC
from train.recipe import Augment

# ITU-R BT.601 luma, what Pillow's convert("L") uses.
_LUMA = (0.299, 0.587, 0.114)


def apply(augment: Augment, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return randomly transformed copies of `images`.

    `images` is uint8 or float (N, 3, H, W) on the 0 to 255 scale; the result is float32 on the same scale, clipped to
    0..255. `generator` is on the CPU, so that runs on any device draw alike.
    """
    draws = _draw(augment, len(images), generator)
    # A GPU wants the whole batch. On a CPU a few images at a time stay in its cache: three times as fast.
    step = torch.get_num_threads() if images.device.type == "cpu" else len(images)
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    for start in range(0, len(images), max(1, step)):
        few = slice(start, start + step)
        mine = {name: values[few].to(images.device) for name, values in draws.items()}
        # A copy, so that every later step may work in place.
        x = _geometry(augment, images[few].to(torch.float32, copy=True).contiguous(), mine)
        x = _blur(augment, _colour(x, mine), mine)
        out[few] = _noise(x, mine, generator).clamp_(0, 255)
    return out


def desaturate(images: Tensor) -> Tensor:
    """Remove the saturation of HSV, keeping the value (the largest channel), as MobileNet_M's paper does."""
    return images.amax(dim=1, keepdim=True).expand_as(images)


def _draw(a: Augment, n: int, g: torch.Generator) -> dict[str, Tensor]:
    """Everything random about `n` images but the noise field: tensors (n, ...) on the CPU, by name."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=g)

    draws: dict[str, Tensor] = {}
    if a.horizontal_flip:
        draws["flip"] = uniform(0, 1) < 0.5
    if a.vertical_flip:
        draws["upside_down"] = uniform(0, 1) < 0.5
    if a.rotate or a.shift or a.shear or a.scale != (1.0, 1.0):
        angle = uniform(-a.rotate, a.rotate) * (math.pi / 180)
        shear = torch.tan(uniform(-a.shear, a.shear) * (math.pi / 180))
        zoom = torch.exp(-uniform(math.log(a.scale[0]), math.log(a.scale[1])))
        dx, dy = uniform(-2 * a.shift, 2 * a.shift), uniform(-2 * a.shift, 2 * a.shift)
        cos, sin = torch.cos(angle), torch.sin(angle)
        rows = (zoom * cos, zoom * (shear * cos - sin), dx), (zoom * sin, zoom * (shear * sin + cos), dy)
        affine = torch.stack([torch.stack(row, 1) for row in rows], 1)
        for row, name in enumerate(("flip", "upside_down")):  # mirrored while it is resampled anyway
            if name in draws:
                affine[:, row] *= torch.where(draws[name], -1.0, 1.0).view(n, 1)
        draws["affine"] = affine
        draws["sharp"] = uniform(0, 1) < a.sharp_share
        draws["turns"] = torch.randint(0, 4, (n,), generator=g)
    if a.gamma:
        draws["gamma"] = torch.exp(a.gamma * torch.randn((n, 1, 1, 1), generator=g))
    if a.saturation != (1.0, 1.0) or a.grey:
        keep = uniform(*a.saturation)
        draws["saturation"] = torch.where(uniform(0, 1) < a.grey, 0.0, keep).view(n, 1, 1, 1)
    if a.hue or a.dyes:
        chosen = uniform(0, 1) < a.restain
        draws["hue"] = torch.where(chosen, uniform(-a.hue, a.hue) * (math.pi / 180), 0.0)
        factors = torch.empty(n, 2).uniform_(1 - a.dyes, 1 + a.dyes, generator=g)
        draws["dyes"] = torch.where(chosen.view(n, 1), factors, 1.0)
    if a.brightness != (1.0, 1.0):
        draws["gain"] = uniform(*a.brightness).view(n, 1, 1, 1)
    if a.channel_gain:
        tint = torch.exp(a.channel_gain * torch.randn((n, 3, 1, 1), generator=g))
        draws["gain"] = tint * draws.get("gain", torch.ones(()))
    if a.blur:
        draws["blur"] = torch.where(uniform(0, 1) < 0.5, uniform(0.3, a.blur), 0.0)
    if a.noise_levels:
        draws["noise"] = torch.tensor(a.noise_levels)[torch.randint(len(a.noise_levels), (n,), generator=g)]
    elif a.noise_max:
        noisy, sigma = uniform(0, 1) < a.noise_share, uniform(0, a.noise_max)
        if a.noise_power != 1:
            sigma = a.noise_max * (sigma / a.noise_max) ** a.noise_power
        draws["noise"] = torch.where(noisy, sigma, 0.0)
    return draws


def _flipped(x: Tensor, d: dict[str, Tensor], chosen: Tensor | slice) -> Tensor:
    for name, dim in (("flip", 3), ("upside_down", 2)):
        if name in d and d[name][chosen].any():
            x = torch.where(d[name][chosen].view(-1, 1, 1, 1), x.flip(dim), x)
    return x


def _geometry(a: Augment, x: Tensor, d: dict[str, Tensor]) -> Tensor:
    if "affine" not in d:
        return _flipped(x, d, slice(None))
    warped = torch.empty_like(x)
    sharp = d["sharp"]
    for k in d["turns"][sharp].unique().tolist():
        chosen = sharp & (d["turns"] == k)
        warped[chosen] = torch.rot90(_flipped(x[chosen], d, chosen), k, (2, 3))
    if not sharp.all():
        source = x[~sharp]
        grid = F.affine_grid(d["affine"][~sharp], list(source.shape), align_corners=False)
        warped[~sharp] = F.grid_sample(source, grid, mode="bilinear", padding_mode=a.fill, align_corners=False)
    return warped


def _colour(x: Tensor, d: dict[str, Tensor]) -> Tensor:
    if "gamma" in d:
        x = x.div_(255).clamp_(min=0).pow_(d["gamma"]).mul_(255)
    if "saturation" in d:
        luma = x[:, :1] * _LUMA[0]
        for c in (1, 2):
            luma.add_(x[:, c : c + 1], alpha=_LUMA[c])
        x = x.mul_(d["saturation"]).add_(luma.mul_(1 - d["saturation"]))
    if "dyes" in d:
        x = _restained(x, d)
    return x.mul_(d["gain"]) if "gain" in d else x


def _restained(x: Tensor, d: dict[str, Tensor]) -> Tensor:
    """Each dye's density scaled, then hue turned. Black stays black: it is the mask around a cell, not a dye."""
    chosen = (d["hue"] != 0) | (d["dyes"] != 1).any(1)
    if not chosen.any():
        return x
    few = x[chosen].flatten(2)
    density = few.clamp(1, 255).div_(255).log_().neg_()
    of_dyes = torch.from_numpy(OF_DYES).to(x)
    factors = torch.cat([d["dyes"][chosen], torch.ones_like(d["dyes"][chosen][:, :1])], 1)
    # One matrix per image; transposed, since a pixel is a column here and a row where the dyes are defined.
    mixed = (of_dyes @ torch.diag_embed(factors).to(x) @ torch.from_numpy(DYES).to(x)).transpose(1, 2)
    stained = (mixed @ density).neg_().exp_().mul_(255)
    cos, sin = torch.cos(d["hue"][chosen]).to(x), torch.sin(d["hue"][chosen]).to(x)
    turn = torch.eye(3).to(x).repeat(len(few), 1, 1)
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, -sin, sin, cos
    matrix = torch.from_numpy(FROM_YCC).to(x) @ turn @ torch.from_numpy(TO_YCC).to(x)
    stained = (matrix @ stained).clamp_(0, 255)
    lit = few.amax(1, keepdim=True) > BLACK
    x[chosen] = torch.where(lit, stained, few).view_as(x[chosen])
    return x


def _blur(a: Augment, x: Tensor, d: dict[str, Tensor]) -> Tensor:
    chosen = d["blur"] > 0 if "blur" in d else torch.zeros(len(x), dtype=torch.bool)
    if not chosen.any():
        return x
    c, h, w = x.shape[1:]
    radius = max(1, math.ceil(2.5 * a.blur))
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (taps / d["blur"][chosen].view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)
    groups = len(kernel)
    y = x[chosen].reshape(1, groups, h, w)
    y = F.conv2d(y, kernel.view(groups, 1, 1, -1), padding=(0, radius), groups=groups)
    y = F.conv2d(y, kernel.view(groups, 1, -1, 1), padding=(radius, 0), groups=groups)
    x[chosen] = y.reshape(-1, c, h, w)
    return x


def _noise(x: Tensor, d: dict[str, Tensor], g: torch.Generator) -> Tensor:
    noisy = d["noise"] > 0 if "noise" in d else torch.zeros(len(x), dtype=torch.bool)
    if not noisy.any():
        return x
    field = torch.randn((int(noisy.sum()), *x.shape[1:]), generator=g).to(x.device)
    field.mul_(d["noise"][noisy].view(-1, 1, 1, 1))
    # Rounded and clipped like an image file with that noise, which is what the model sees at test time.
    x[noisy] = field.add_(x[noisy]).round_().clamp_(0, 255)
    return x
