"""What the commands ask of a model: the options they share, and what they mean."""

import argparse
from dataclasses import dataclass

from .corruptions import KINDS, Corruption
from .errors import BlastlensError
from .hub import fetch
from .model_folder import PRECISIONS, bundled_models


@dataclass(frozen=True)
class Asked:
    """A model, and how each image is shown to it; all as `Classifier` takes them."""

    model: str
    precision: str
    sigma: float
    seed: int
    corruption: Corruption | None
    prevalence: float | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Asked":
        """Read them from a command's arguments; raises BlastlensError where one cannot be met."""
        corruption = None if arguments.corruption is None else Corruption.parse(arguments.corruption)
        model = arguments.model or _default_model()
        return cls(model, arguments.precision, arguments.sigma, arguments.seed, corruption, arguments.prevalence)


def options() -> argparse.ArgumentParser:
    """The options that `Asked` reads, as a parent of a command's parser."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--model",
        help="bundled name, folder, or Hub owner/name[@revision] (default: the first bundled single-cell model)",
    )
    parser.add_argument("--sigma", type=float, default=0.0, help="add Gaussian noise, 0 to 100 on the 0 to 255 scale")
    parser.add_argument(
        "--corruption",
        metavar="KIND:LEVEL",
        help=f"make the image worse first, such as jpeg:40; kinds: {', '.join(KINDS)}",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--prevalence", type=float, help="share of leukemic images that probabilities assume (default: the model's own)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(default: fp32)")
    return parser


def one_line(text: str) -> str:
    """The text without line breaks and terminal control codes, which a file name may hold."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _default_model() -> str:
    for name in bundled_models():
        if fetch(name).view.frame is not None:
            return name
    raise BlastlensError("No single-cell model is bundled; name a model with --model.")
