"""Check that a model folder, or a published copy, predicts through a stock transformers `pipeline` as it was measured.

    python -m train.pipeline_evaluation models/mobilenetv1-cnmc2019 --data DIR --record --limit 100
    python -m train.pipeline_evaluation owner/name --data DIR --check

`--record` writes a sample of images and how many of them are classified correctly into the folder's metrics.json, which
the card prints; `--check` measures a copy on that sample. Neither is evidence of quality: a bundled model was fitted on
the images of its own data set.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import pipeline

from blastlens.errors import BlastlensError
from blastlens.files import write_json
from blastlens.hub import fetch
from train.datasets import labels_of, load_rows

METHOD = "transformers.pipeline"
WARNING = "The network was fitted on these images: they check a copy and are no evidence of quality."


def sample_of(data: Path, limit: int | None = None) -> dict[str, str]:
    """Return file -> label of `limit` images of a prepared dataset, evenly spread over its sorted files."""
    rows = load_rows(data)
    names, labels = labels_of(rows)
    chosen = np.linspace(0, len(rows) - 1, min(limit or len(rows), len(rows))).round().astype(int)
    return {rows[i].file_name: names[labels[i]] for i in chosen}


def pipeline_scores(model: str | Path, data: Path, sample: Mapping[str, str]) -> dict[str, Any]:
    """Return how many images of a sample the pipeline classifies correctly.

    Args:
        model: model folder, or "owner/name" on the Hub.
        data: folder that the sample's files are relative to, a prepared dataset.
        sample: file -> label.

    Raises:
        BlastlensError: an image of the sample is missing.
    """
    if absent := [file for file in sample if not (data / file).is_file()]:
        raise BlastlensError(
            f"{data} lacks {len(absent)} of the sample's {len(sample)} images, such as {absent[0]}; give the prepared "
            "data set, which `python -m train.datasets prepare` writes."
        )
    predicted = pipeline("image-classification", model=str(model))([str(data / file) for file in sample], top_k=1)
    right = sum(one[0]["label"] == label for one, label in zip(predicted, sample.values(), strict=True))
    return {"images": len(sample), "right": right, "accuracy": right / len(sample)}


def record(folder: Path, data: Path, limit: int | None = None) -> dict[str, Any]:
    """Measure `limit` images, and write the result and the sample into the folder's metrics.json."""
    path, sample = folder / "metrics.json", sample_of(data, limit)
    scores = pipeline_scores(folder, data, sample)
    metrics = json.loads(path.read_text())
    write_json(path, metrics | {"check": {"what": WARNING, "road": METHOD, **scores, "sample": sample}})
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
    return {**pipeline_scores(place, data, recorded["sample"]), "expected": recorded["right"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0; 1 if a copy predicts otherwise than was recorded; 2 if nothing could be measured."""
    parser = argparse.ArgumentParser(prog="train.pipeline_evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model folder; with --check also owner/name on the Hub")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--limit", type=int, help="how many images to record, evenly spread (default: all)")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--record", action="store_true", help="write the result into the folder's metrics.json")
    mode.add_argument("--check", action="store_true", help="compare with the recorded result, on its sample")
    arguments = parser.parse_args(argv)
    model, data = arguments.model, arguments.data
    try:
        scores = check(model, data) if arguments.check else record(Path(model), data, arguments.limit)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
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
