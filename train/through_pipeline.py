"""Measure a model folder on the road its users take: Hugging Face's evaluator over a stock `pipeline`.

    python -m train.through_pipeline models/mobilenet_m-cnmc2019 --data DIR --limit 200

It checks that what is published answers as what was measured. It is not evidence of quality: a bundled model was
fitted on the images of its own data set.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np

from blastlens import metrics
from blastlens.errors import BlastlensError
from train.datasets import labels_of, load_rows


class Scores(evaluate.Metric):
    """Accuracy and weighted F1 of predicted class indices, computed here: `evaluate.load` needs the network."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="accuracy and weighted F1 (scikit-learn's definition)",
            citation="",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        certain = np.eye(max(*predictions, *references) + 1)[list(predictions)]
        labels = np.asarray(references)
        return {
            "accuracy": metrics.accuracy(labels, certain),
            "weighted_f1": metrics.weighted_f1(labels, certain),
        }


def through_pipeline(folder: Path, data: Path, limit: int | None = None) -> dict[str, Any]:
    """Scores of the pipeline's answers on the first `limit` of evenly spread images of a prepared dataset."""
    rows = load_rows(data)
    names, labels = labels_of(rows)
    chosen = np.linspace(0, len(rows) - 1, min(limit or len(rows), len(rows))).round().astype(int)
    images = datasets.Dataset.from_dict(
        {"image": [str(data / rows[i].file_name) for i in chosen], "label": labels[chosen]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}),
    )
    return evaluate.evaluator("image-classification").compute(
        # Its path, not a pipeline: the evaluator would ask a ready one whether it is a TensorFlow model, a class that
        # transformers 5 no longer has.
        model_or_pipeline=str(folder),
        data=images,
        metric=Scores(),
        label_mapping={name: index for index, name in enumerate(names)},
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.through_pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--limit", type=int, help="how many images, evenly spread (default: all)")
    arguments = parser.parse_args(argv)
    try:
        print(json.dumps(through_pipeline(arguments.folder, arguments.data, arguments.limit), indent=1))
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
