"""Measure a model folder as its users run it: Hugging Face's evaluator over a stock `pipeline`.

    python -m train.pipeline_evaluation models/mobilenetv1-cnmc2019 --data DIR --limit 200
    python -m train.pipeline_evaluation models/mobilenetv1-cnmc2019 --data DIR --limit 100 --record
    python -m train.pipeline_evaluation owner/name --data DIR --check

It checks that what is published predicts as what was measured. It is not evidence of quality: a bundled model was
fitted on the images of its own data set. `--record` writes the sample and the number of right predictions into the
folder's metrics.json, which the card prints as a figure to check a copy by; `--check` measures a copy on that sample.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blastlens import metrics
from blastlens.errors import BlastlensError
from blastlens.files import write_json
from blastlens.hub import fetch
from train.command import reports_errors
from train.datasets import labels_of, load_rows

if TYPE_CHECKING:
    import evaluate

METHOD = "evaluate.evaluator('image-classification') over transformers.pipeline"
WARNING = "The network was fitted on these images: they check a copy and are no evidence of quality."


def _metric() -> "evaluate.Metric":
    """Accuracy and weighted F1 of predicted class indices. `evaluate.load` would need the network."""
    import datasets  # takes seconds
    import evaluate

    integer = datasets.Value("int64")

    class Scores(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description="accuracy, right predictions, and weighted F1 (scikit-learn's definition)",
                citation="",
                features=datasets.Features({"predictions": integer, "references": integer}),
            )

        def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
            labels, one_hot = np.asarray(references), np.eye(max(*predictions, *references) + 1)[list(predictions)]
            return {
                "images": len(labels),
                "right": int((np.asarray(predictions) == labels).sum()),
                "accuracy": metrics.score("accuracy", labels, one_hot),
                "weighted_f1": metrics.score("weighted_f1", labels, one_hot),
            }

    return Scores()


def sample_of(data: Path, limit: int | None = None) -> dict[str, str]:
    """Return file -> label of `limit` images of a prepared dataset, evenly spread over its sorted files."""
    rows = load_rows(data)
    names, labels = labels_of(rows)
    chosen = np.linspace(0, len(rows) - 1, min(limit or len(rows), len(rows))).round().astype(int)
    return {rows[i].file_name: names[labels[i]] for i in chosen}


def pipeline_scores(
    model: str | Path, data: Path, sample: Mapping[str, str] | None = None, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the scores of the pipeline on a sample.

    Args:
        model: model folder, or "owner/name" on the Hub.
        data: folder that the sample's files are relative to, a prepared dataset.
        sample: file -> label; all images by default.
        names: the model's labels; those of the dataset by default.

    Raises:
        BlastlensError: an image of the sample is missing.
    """
    names = list(names or labels_of(load_rows(data))[0])
    sample = sample_of(data) if sample is None else sample
    if absent := [file for file in sample if not (data / file).is_file()]:
        raise BlastlensError(
            f"{data} lacks {len(absent)} of the sample's {len(sample)} images, such as {absent[0]}; give the prepared "
            "data set, which `python -m train.datasets prepare` writes."
        )
    import datasets  # takes seconds
    import evaluate

    images = datasets.Dataset.from_dict(
        {"image": [str(data / file) for file in sample], "label": [names.index(label) for label in sample.values()]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}),
    )
    return evaluate.evaluator("image-classification").compute(
        # Its path, not a pipeline: the evaluator would test whether a pipeline is a TensorFlow model, a class that
        # transformers 5 no longer has.
        model_or_pipeline=str(model),
        data=images,
        metric=_metric(),
        label_mapping={name: index for index, name in enumerate(names)},
    )


def record(folder: Path, data: Path, limit: int | None = None) -> dict[str, Any]:
    """Measure `limit` images, and write the result and the sample into the folder's metrics.json."""
    path = folder / "metrics.json"
    found, sample = json.loads(path.read_text()), sample_of(data, limit)
    scores = pipeline_scores(folder, data, sample, found["label_names"])
    counts = {key: scores[key] for key in ("images", "right", "accuracy")}
    found["check"] = {"what": WARNING, "road": METHOD, **counts, "sample": sample}
    write_json(path, found)
    return scores


def check(model: str, data: Path) -> dict[str, Any]:
    """Measure a copy on the sample that its metrics.json records; `expected` is how many were right then.

    Raises:
        BlastlensError: nothing is recorded there.
    """
    folder = fetch(model)
    recorded = folder.metrics.get("check")
    if recorded is None:
        raise BlastlensError(f"{model} records no sample to check a copy by; `--record` writes one.")
    place = model if folder.revision else folder.path  # on the Hub, or on this machine
    return {**pipeline_scores(place, data, recorded["sample"], folder.label_names), "expected": recorded["right"]}


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Return 0; 1 if a copy predicts otherwise than was recorded; 2 if nothing could be measured."""
    parser = argparse.ArgumentParser(prog="train.pipeline_evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model folder; with --check also owner/name on the Hub")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--limit", type=int, help="how many images, evenly spread (default: all)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--record", action="store_true", help="write the result into the folder's metrics.json")
    mode.add_argument("--check", action="store_true", help="compare with the recorded result, on its sample")
    arguments = parser.parse_args(argv)
    model, data, limit = arguments.model, arguments.data, arguments.limit
    if arguments.check:
        scores = check(model, data)
    elif arguments.record and "auto_map" in fetch(model).config:
        print(f"{model} needs code of its own, which the evaluator does not run: no sample is recorded.")
        return 0
    elif arguments.record:
        scores = record(Path(model), data, limit)
    else:
        scores = pipeline_scores(model, data, sample_of(data, limit))
    print(json.dumps(scores, indent=1))
    if scores["right"] == scores.get("expected", scores["right"]):
        return 0
    print(
        f"{model}: {scores['right']} predictions are right where {scores['expected']} are recorded; the copy, or the "
        "software that runs it, differs.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
