"""How large a network is and how much work one image takes: parameters and multiply-adds.

    python -m train.complexity results/networks.json

writes both of every published system's and our own recipes' networks, whether or not they were ever trained.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blastlens.dataset_info import DATASETS
from blastlens.files import write_json
from train.command import reports_errors
from train.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from torch import nn


def count_parameters(network: "nn.Module") -> int:
    """All parameters, trained or frozen; the running statistics of batch norms are none."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: "nn.Module", size: int) -> int:
    """Multiply-adds of one image of `size` x `size` pixels in convolutions, linear layers and attention.

    Biases, norms, activations and pooling are left out, as papers do. The network runs once, on its own device, and
    is left in the mode it was in.
    """
    import torch  # takes seconds
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    pixels = torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
    training = network.training
    network.eval()
    # Fused attention is one operation, which the counter does not know on every device; this takes it apart.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(pixels)
    network.train(training)
    return counter.get_total_flops() // 2  # torch counts the multiplication and the addition as two


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.complexity", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="JSON file to write")
    out = parser.parse_args(argv).out
    from train.networks import create_network  # takes seconds

    record = {}
    for recipe in (Recipe.load(path.stem) for path in sorted(RECIPES.glob("*.yaml"))):
        network = create_network(recipe, len(DATASETS[recipe.dataset].labels), "scratch")
        sizes = {"parameters": count_parameters(network), "multiply_adds": multiply_adds(network, recipe.image_size)}
        record[recipe.name] = sizes
    write_json(out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
