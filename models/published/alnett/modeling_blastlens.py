"""What stock timm and transformers lack to run some of this project's models: transformers custom code, copied as it
is into the model folders that need it, so it imports nothing of the project.

`CustomCNN` and `ALNett` are used like timm's networks; `enhance` is the fixed image enhancement with which some
published systems begin. `pipeline("image-classification", model=FOLDER, trust_remote_code=True)` loads
`BlastlensForImageClassification`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class _Network(nn.Module):
    """What the project uses of a timm model: `forward_features`, `forward_head` and where the classifier is."""

    num_classes: int
    num_features: int
    pretrained_cfg: dict[str, Any]

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.pretrained_cfg["classifier"])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class CustomCNN(_Network):
    """The convolutional network of Reddy et al.: blocks of convolution, activation and pooling, then dense layers.

    The paper prints about 9.6 million parameters and no layer sizes. Chosen to fit: four blocks of an unpadded 3 x 3
    convolution (32, 64, 64, 128 channels), ReLU and 2 x 2 max pooling, then a dense layer of 512 with ReLU, dropout
    and the classifier: 9,569,924 parameters for 4 classes at 224 px. The dense layer grows with the image.

    (N, 3, S, S) -> (N, num_classes), S = image_size, at least 46.
    """

    def __init__(self, num_classes: int = 4, drop_rate: float = 0.0, image_size: int = 224):
        super().__init__()
        self.num_classes, self.num_features = num_classes, 512
        self.pretrained_cfg = {"classifier": "classifier", "first_conv": "features.0", "fixed_input_size": True}
        widths, side = (3, 32, 64, 64, 128), image_size
        blocks: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            # Pooling before ReLU gives the same values and leaves ReLU a quarter of the work.
            blocks += [nn.Conv2d(inputs, outputs, 3), nn.MaxPool2d(2), nn.ReLU(inplace=True)]
            side = (side - 2) // 2
        if side < 1:
            raise ValueError(f"image_size is {image_size}; four blocks need at least 46.")
        self.features = nn.Sequential(*blocks)
        self.dense = nn.Linear(widths[-1] * side * side, self.num_features)
        self.drop = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(self.num_features, num_classes)
        _initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(self.drop(F.relu(self.dense(x.flatten(1)))))


class ALNett(_Network):
    """The network of Jawahar et al. (2022), "ALNett: A cluster layer deep convolutional neural network for acute
    lymphoblastic leukemia classification", doi 10.1016/j.compbiomed.2022.105894, as far as its abstract goes.

    The abstract has depth-wise convolutions with different dilation rates, in cluster layers of convolution and max
    pooling followed by normalisation, and little computation. Sizes are not public. Chosen: two plain blocks that
    bring 224 px down to 28 before anything is dilated; three cluster layers, each with 3 x 3 depth-wise convolutions
    at dilation 1, 2 and 3 side by side, which a 1 x 1 convolution joins; ReLU and batch normalisation; global average
    pooling in place of the last max pooling; dropout; one linear layer. 447,698 parameters and 0.11 billion
    multiply-adds for 2 classes at 224 px.

    (N, 3, S, S) -> (N, num_classes), S at least 32; any size fits one set of weights, and `image_size` is ignored.
    """

    def __init__(self, num_classes: int = 2, drop_rate: float = 0.0, image_size: int = 224):
        super().__init__()
        self.num_classes, self.num_features = num_classes, 384
        self.pretrained_cfg = {"classifier": "classifier", "first_conv": "features.0.0", "fixed_input_size": False}
        self.features = nn.Sequential(
            _block(nn.Conv2d(3, 24, 3, stride=2, padding=1), 24),
            _block(nn.Conv2d(24, 64, 3, padding=1), 64),
            _block(_Cluster(64, 128), 128),
            _block(_Cluster(128, 256), 256),
            _block(_Cluster(256, 384), 384, pool=False),
        )
        self.drop = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(self.num_features, num_classes)
        _initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(self.drop(x.mean((2, 3))))


class _Cluster(nn.Module):
    """Depth-wise 3 x 3 convolutions of the same input at several dilation rates, joined by a 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int, rates: Sequence[int] = (1, 2, 3)):
        super().__init__()
        self.dilated = nn.ModuleList(
            nn.Conv2d(inputs, inputs, 3, padding=rate, dilation=rate, groups=inputs, bias=False) for rate in rates
        )
        self.join = nn.Conv2d(inputs * len(rates), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([convolution(x) for convolution in self.dilated], dim=1))


def _block(convolution: nn.Module, channels: int, pool: bool = True) -> nn.Sequential:
    pooling = [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(convolution, *pooling, nn.ReLU(inplace=True), nn.BatchNorm2d(channels))


def _initialise(network: nn.Module) -> None:
    """He et al. (2015): variance is kept through ReLU layers. Biases start at zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


OURS = {"custom_cnn": CustomCNN, "alnett": ALNett}


def build_network(
    architecture: str,
    num_classes: int,
    image_size: int = 224,
    hidden: Sequence[int] = (),
    drop_rate: float = 0.0,
    pretrained: bool = False,
) -> nn.Module:
    """A network of `OURS`, or timm's, with dense layers of the widths `hidden`, each with a ReLU, before the last one.

    `pretrained` fetches timm's ImageNet weights; networks of `OURS` have none. Raises RuntimeError for a name that
    timm does not know.
    """
    if architecture in OURS:
        network = OURS[architecture](num_classes, drop_rate=drop_rate, image_size=image_size)
    else:
        config = timm.get_pretrained_cfg(architecture)
        # Transformers have one position embedding per patch; timm resamples pretrained ones to the size asked for.
        size = {"img_size": image_size} if config and config.fixed_input_size else {}
        network = timm.create_model(
            architecture, pretrained=pretrained, num_classes=num_classes, drop_rate=drop_rate, **size
        )
    if hidden:
        # timm keeps the classifier's name there, sometimes dotted ("head.fc").
        name = network.pretrained_cfg["classifier"]
        widths = (network.get_submodule(name).in_features, *hidden)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        network.set_submodule(name, nn.Sequential(*layers, nn.Linear(widths[-1], num_classes)))
    return network


def enhance(
    images: Tensor, *, denoise: int = 0, contrast: bool = False, brightness: float = 0.0, optical_density: bool = False
) -> Tensor:
    """Fixed image enhancement, in the order of the arguments; float (N, 3, H, W) on the 0 to 255 scale, in and out.

    Args:
        denoise: side of a median filter, odd, with reflected borders; 0 is off.
        contrast: stretch each channel of each image linearly from its own range to 0..255; a flat channel stays as it
            is (the rule of torchvision's autocontrast).
        brightness: scale each image so that the mean over its pixels and channels is this, then clip; 0 is off.
        optical_density: the negative logarithm of each value, scaled so that 0 becomes 255 and 255 becomes 0: equal
            amounts of a dye are equal steps.
    """
    if denoise:
        images = _median(images, denoise)
    if contrast:
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        flat = low == high
        stretched = (images - low) * (255 / torch.where(flat, 1.0, high - low))
        images = torch.where(flat, images, stretched.clamp(0, 255))
    if brightness:
        mean = images.mean((1, 2, 3), keepdim=True)
        images = (images * (brightness / torch.where(mean > 0, mean, 1.0))).clamp(0, 255)
    if optical_density:
        images = 255 - torch.log2(images.clamp(0, 255) + 1) * (255 / 8)
    return images


def _median(images: Tensor, side: int) -> Tensor:
    """Median over each `side` x `side` window by minima and maxima alone, which every runtime has and runs quickly.

    "Forgetful selection": of n // 2 + 2 of the n values neither the smallest nor the largest can be the median of all;
    forget both, take in the next value, and repeat until one is left.
    """
    if side < 3 or side % 2 == 0:
        raise ValueError(f"A median filter's side is odd and at least 3, not {side}.")
    height, width = images.shape[2:]
    padded = F.pad(images, (side // 2,) * 4, mode="reflect")
    values = [padded[:, :, y : y + height, x : x + width] for y in range(side) for x in range(side)]
    half = len(values) // 2 + 2
    kept = _without_extremes(values[:half])
    for value in values[half:]:
        kept = _without_extremes([*kept, value])
    return kept[0]


def _without_extremes(values: list[Tensor]) -> list[Tensor]:
    """All but the element-wise smallest and the element-wise largest of three or more, in no particular order."""
    values = list(values)
    last = len(values) - 1
    # Pairs first: each end then has to be looked for in one half only.
    for i in range(len(values) // 2):
        values[i], values[last - i] = _sorted(values[i], values[last - i])
    for i in range(1, (len(values) + 1) // 2):
        values[0], values[i] = _sorted(values[0], values[i])
    for i in range(len(values) // 2, last):
        values[i], values[last] = _sorted(values[i], values[last])
    return values[1:-1]


def _sorted(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.minimum(a, b), torch.maximum(a, b)


class BlastlensConfig(PretrainedConfig):
    """config.json: timm's own keys, of which these are read here, and the two steps that timm has no words for.

    architecture: a name `build_network` knows. pretrained_cfg: timm's, with input_size, mean and std. hidden: widths
    of dense layers before the last linear layer. enhance: arguments of `enhance`.
    """

    model_type = "blastlens"
    # Where config.json names no other, images are prepared as timm does it, from pretrained_cfg.
    image_processor_type: str = "TimmWrapperImageProcessor"
    architecture: str = "alnett"
    pretrained_cfg: dict[str, Any] | None = None
    hidden: list[int] | None = None
    enhance: dict[str, Any] | None = None


class BlastlensForImageClassification(PreTrainedModel):
    """A network of `build_network` behind `enhance`."""

    config_class = BlastlensConfig
    main_input_name = "pixel_values"

    def __init__(self, config: BlastlensConfig):
        super().__init__(config)
        size = config.pretrained_cfg["input_size"][-1]
        self.network = build_network(config.architecture, config.num_labels, size, config.hidden or ())
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """Normalised pixels (N, 3, S, S) to logits (N, num_labels), and the loss where there are labels (N,)."""
        logits = self.forward_head(self.forward_features(pixel_values))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def forward_features(self, pixel_values: Tensor) -> Tensor:
        """The network's last feature map of the enhanced image."""
        if self.config.enhance:
            mean, std = (
                pixel_values.new_tensor(self.config.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std")
            )
            # Images have whole numbers; rounding takes back what normalisation lost of them.
            pixels = ((pixel_values * std + mean) * 255).round()
            pixel_values = (enhance(pixels, **self.config.enhance) / 255 - mean) / std
        return self.network.forward_features(pixel_values)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.network.forward_head(features)

    def get_classifier(self) -> nn.Module:
        return self.network.get_submodule(self.network.pretrained_cfg["classifier"])
