"""Run folder -> model folder: what `pipeline`, timm and `blastlens.Classifier` load, and what the Hub holds.

    python -m train.export runs/final/cnmc --cv runs/cv/cnmc --out models/mobilenetv1-cnmc2019

The head's batch norm and the calibration (a temperature and a bias per class from the cross-validation's held-out
images) are folded into the last linear layer. The ONNX files are written from that same network and compared with it
before the folder gets its name.

The folder is a plain timm model wherever timm can express the recipe. A network of ours, hidden layers in the head or
image enhancement it cannot: then `train/modeling_blastlens.py` goes into the folder as transformers' custom code, named
in config.json's `auto_map`; the ONNX files need no code.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blastlens.errors import BlastlensError
from train.command import reports_errors
from train.datasets import load_rows
from train.datasets.splits import make_splits
from train.pixels import load_pixels
from train.recipe import Recipe, view_of


def training_images(run: Path, data: Path, cache: Path) -> np.ndarray:
    """Return training images of a finished run, uint8 (n, S, S, 3), that calibrate its int8 file.

    Raises:
        BlastlensError: the run is not finished, or `data` is not its prepared dataset.
    """
    if not (run / "run.json").is_file():
        raise BlastlensError(f"{run} is not a finished run: it has no run.json.")
    record, rows = json.loads((run / "run.json").read_text()), load_rows(data)
    if len(rows) != record["dataset"]["images"]:
        raise BlastlensError(f"{data} is not the dataset that {run} was trained on.")
    split = make_splits(record["protocol"], rows, record["seed"])[record["fold"]]
    pixels = load_pixels(data, rows, view_of(Recipe.of_record(record)), cache)
    from train.quantise import training_sample  # imports what takes seconds

    return np.asarray(pixels[training_sample(split.train)])


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="finished run folder")
    parser.add_argument("--cv", type=Path, help="folder of train.crossval: its calibration is folded in")
    parser.add_argument("--data", type=Path, required=True, help="the run's prepared dataset, to calibrate int8")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args(argv)
    summary = json.loads((arguments.cv / "summary.json").read_text()) if arguments.cv else None
    images = training_images(arguments.run, arguments.data, arguments.cache)
    from train.model_files import export  # PyTorch takes seconds: invalid arguments are reported before

    parity = export(arguments.run, arguments.out, images, summary)
    print(f"{arguments.out}: probabilities within {parity['fp32']:.1e} (fp32), {parity['int8']:.1e} (int8)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
