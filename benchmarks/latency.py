"""Milliseconds of one image through every system's network, as it is served: ONNX Runtime, batch 1, fp32.

    python -m benchmarks.latency --out results/latency.json

The weights are random: they decide nothing here. A first network, MobileNetV1 at 224 px, is timed before and after
each other one and the ratio to it is written beside the milliseconds, which drift with the machine's load.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from blastlens.dataset_info import DATASETS
from blastlens.files import write_json
from blastlens.inference import usable_cores
from train.compare import systems
from train.evaluate import latency_ms
from train.model_files import as_served, write_onnx
from train.networks import create_network
from train.recipe import Recipe, view_of

REFERENCE = Recipe("reference", "", "cnmc2019", "mobilenetv1_100", "all")


def write_network(recipe: Recipe, path: Path) -> None:
    """The recipe's network with random weights, as an ONNX file."""
    names = DATASETS[recipe.dataset].labels
    network = as_served(create_network(recipe, len(names), "scratch").eval(), recipe, names)
    write_onnx(network, path, recipe.image_size)


def measure(names: Sequence[str], repeats: int) -> dict[str, Any]:
    """`machine`, in words, and by system `onnx_fp32_ms` and `times_mobilenetv1`, the ratio to the reference."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        reference, path = Path(folder) / "reference.onnx", Path(folder) / "network.onnx"
        write_network(REFERENCE, reference)
        for name in tqdm(names, desc="latency", unit="system"):
            recipe = Recipe.load(name)
            write_network(recipe, path)
            before = latency_ms(reference, view_of(REFERENCE), repeats)
            ms = latency_ms(path, view_of(recipe), repeats)
            after = latency_ms(reference, view_of(REFERENCE), repeats)
            measured[name] = {"onnx_fp32_ms": round(ms, 2), "times_mobilenetv1": round(2 * ms / (before + after), 2)}
    machine = f"{usable_cores()} CPU cores with ONNX Runtime {version('onnxruntime')}, median of {repeats}"
    return {"machine": machine, "systems": measured}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.latency", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="default: every published system")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    write_json(arguments.out, measure(arguments.only or systems(), arguments.repeats))
    return 0


if __name__ == "__main__":
    sys.exit(main())
