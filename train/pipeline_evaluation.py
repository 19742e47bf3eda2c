"""Measure a model folder on the road its users take: Hugging Face's evaluator over a stock `pipeline`.

    python -m train.pipeline_evaluation models/mobilenetv1-cnmc2019 --data DIR --limit 200
    python -m train.pipeline_evaluation models/mobilenetv1-cnmc2019 --data DIR --limit 100 --record
    python -m train.pipeline_evaluation owner/name --data DIR --check

It checks that what is published answers as what was measured. It is not evidence of quality: a bundled model was
fitted on the images of its own data set. With `--record` the sample and the number of right answers go into the
folder's metrics.json, which the card prints as a figure to check a copy by; `--check` measures a copy on that sample.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np

from blastlens import metrics
from blastlens.errors import BlastlensError
from blastlens.hub import fetch
from train.datasets import labels_of, load_rows
from train.files import write_json

ROAD = "evaluate.evaluator('image-classification') over transformers.pipeline"
WARNING = "The network was fitted on these images: they check a copy and are no evidence of quality."


class Scores(evaluate.Metric):
    """Accuracy and weighted F1 of predicted class indices, computed here: `evaluate.load` needs the network."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="accuracy, right answers, and weighted F1 (scikit-learn's definition)",
            citation="",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        certain = np.eye(max(*predictions, *references) + 1)[list(predictions)]
        labels = np.asarray(references)
        return {
            "images": len(labels),
            "right": int((np.asarray(predictions) == labels).sum()),
            "accuracy": metrics.accuracy(labels, certain),
            "weighted_f1": metrics.weighted_f1(labels, certain),
        }


def sample_of(data: Path, limit: int | None = None) -> dict[str, str]:
    """File -> label of `limit` images of a prepared dataset, spread evenly over its files in order of their names."""
    rows = load_rows(data)
    names, labels = labels_of(rows)
    chosen = np.linspace(0, len(rows) - 1, min(limit or len(rows), len(rows))).round().astype(int)
    return {rows[i].file_name: names[labels[i]] for i in chosen}


def answers(model: str | Path, data: Path, sample: Mapping[str, str], names: Sequence[str]) -> dict[str, Any]:
    """Scores of the pipeline's answers on a sample.

    Args:
        model: model folder, or "owner/name" on the Hub.
        data: folder that the sample's files are relative to.
        sample: file -> label.
        names: the model's labels.

    Raises:
        BlastlensError: an image of the sample is not there.
    """
    absent = [file for file in sample if not (data / file).is_file()]
    if absent:
        raise BlastlensError(
            f"{data} lacks {len(absent)} of the sample's {len(sample)} images, {absent[0]} for one; give the prepared "
            "data set, which `python -m train.datasets prepare` writes."
        )
    images = datasets.Dataset.from_dict(
        {"image": [str(data / file) for file in sample], "label": [names.index(label) for label in sample.values()]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}),
    )
    return evaluate.evaluator("image-classification").compute(
        # Its path, not a pipeline: the evaluator would ask a ready one whether it is a TensorFlow model, a class that
        # transformers 5 no longer has.
        model_or_pipeline=str(model),
        data=images,
        metric=Scores(),
        label_mapping={name: index for index, name in enumerate(names)},
    )


def through_pipeline(folder: Path, data: Path, limit: int | None = None) -> dict[str, Any]:
    """Scores of the pipeline's answers on `limit` evenly spread images of a prepared dataset."""
    names, _ = labels_of(load_rows(data))
    return answers(folder, data, sample_of(data, limit), names)


def record(folder: Path, data: Path, limit: int | None = None) -> dict[str, Any]:
    """Measure as `through_pipeline` does and write the result, with its sample, into the folder's metrics.json."""
    path = folder / "metrics.json"
    found = json.loads(path.read_text())
    sample = sample_of(data, limit)
    scores = answers(folder, data, sample, found["label_names"])
    found["check"] = {
        "what": WARNING,
        "road": ROAD,
        **{key: scores[key] for key in ("images", "right", "accuracy")},
        "sample": sample,
    }
    write_json(path, found)
    return scores


def check(model: str, data: Path) -> dict[str, Any]:
    """Measure a copy on the sample that its metrics.json records; `expected` is what was right then.

    Raises:
        BlastlensError: nothing is recorded there.
    """
    folder = fetch(model)
    recorded = folder.metrics.get("check")
    if recorded is None:
        raise BlastlensError(f"{model} records no sample to check a copy by; `--record` writes one.")
    # Where it lies on this machine, or the Hub's name for it: what a user would give to `pipeline`.
    place = model if folder.revision else folder.path
    scores = answers(place, data, recorded["sample"], folder.label_names)
    return {**scores, "expected": recorded["right"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 where a copy answers otherwise than what was recorded; 2 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="train.pipeline_evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model folder; with --check also owner/name on the Hub")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--limit", type=int, help="how many images, evenly spread (default: all)")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--record", action="store_true", help="write the result into the folder's metrics.json")
    doing.add_argument("--check", action="store_true", help="compare with the recorded result, on its sample")
    arguments = parser.parse_args(argv)
    try:
        if arguments.check:
            scores = check(arguments.model, arguments.data)
        else:
            measure = record if arguments.record else through_pipeline
            scores = measure(Path(arguments.model), arguments.data, arguments.limit)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(scores, indent=1))
    if scores["right"] == scores.get("expected", scores["right"]):
        return 0
    print(
        f"{arguments.model} gave {scores['right']} right answers where {scores['expected']} are recorded: the copy, or "
        "what it runs on, differs.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
