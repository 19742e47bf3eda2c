"""The block "external" of metrics.json: the shipped network on subjects outside its training set.

`blastlens.external_result` puts it into words.
"""

from pathlib import Path
from typing import Any

import numpy as np

from blastlens import bootstrap, metrics
from blastlens.donor_metrics import MIN_IMAGES, DonorScores
from blastlens.errors import BlastlensError
from blastlens.inference import normalise
from blastlens.integrity import digests
from blastlens.metrics import Interval
from blastlens.model_folder import SAFETENSORS, ModelFolder
from blastlens.noise import add_gaussian_noise
from blastlens.view import RAW_CELL_SIDE
from blastlens.wording import listed
from train.datasets import labels_of, load_rows
from train.datasets.groups import SAME_PERSON
from train.held_out import plain
from train.masks import cell_mask
from train.pixels import load_pixels
from train.quantise import onnx_logits

SIGMAS = (0, 10, 20, 50)
VIEW_OF_FRAME = 320  # px of the published frame that a view of a prepared cell shows
LEUKEMIC_AREA = 30_000  # px of the published frame, above which the baseline classifies a cell as leukemic
DONOR_METRICS = (
    "auroc_per_donor",
    "specificity_per_donor",
    "worst_specificity",
    "sensitivity_per_subject",
    "auroc",
    "specificity",
    "sensitivity",
    "balanced_accuracy",
    "weighted_f1",
)


def external_block(folder: ModelFolder, data: Path, cache: Path) -> dict[str, Any]:
    """Evaluate the shipped network on `data`, a prepared dataset; a subject is its column `subject`, else `group`.

    Raises:
        BlastlensError: other labels than the model's, a subject that the model was trained on, or, for a model of two
            labels, not at least one subject of each.
    """
    rows = load_rows(data)
    names, labels = labels_of(rows)
    if list(names) != list(folder.label_names):
        raise BlastlensError(f"{data} has labels {', '.join(names)}; the model has {', '.join(folder.label_names)}.")
    subjects = [row.subject or row.group for row in rows]
    trained_on = (folder.metrics.get("training") or {}).get("subjects")
    trained = set(trained_on or ())
    for _ in SAME_PERSON if folder.dataset.known else ():  # as many steps as a chain of names can have
        trained |= {b for pair in SAME_PERSON for a, b in (pair, pair[::-1]) if a in trained}
    if known := sorted(set(subjects) & trained):
        raise BlastlensError(
            f"{data} has images of {listed(known, 'and')}, on which {folder.model_id} was trained; an external "
            "validation needs other subjects."
        )
    pixels = load_pixels(data, rows, folder.view, cache)

    def probabilities(sigma: float) -> np.ndarray:
        noisy = (add_gaussian_noise(np.asarray(view), sigma, seed=i) for i, view in enumerate(pixels))
        batches = (normalise(folder.view, view[None]) for view in noisy)
        return metrics.softmax(onnx_logits(folder.onnx_file("fp32"), batches))

    if len(names) == 2:
        measured = _by_donor(folder, labels, probabilities(0), subjects, pixels)
    else:
        measured = _by_group(folder, labels, [probabilities(s) for s in SIGMAS], subjects)
    unknown = "The model folder lists no training subjects, so it could not be checked that none of them is here."
    return plain(
        {
            "data": data.name,
            "images": len(rows),
            "sha256": digests(folder.path, {"safetensors": SAFETENSORS})["safetensors"],
            "unit": "subjects" if any(row.subject for row in rows) else "slide clusters",
            **measured,
            **({} if trained_on else {"caveat": unknown}),
        }
    )


def _by_donor(
    folder: ModelFolder, labels: np.ndarray, probabilities: np.ndarray, subjects: list[str], pixels: np.ndarray
) -> dict[str, Any]:
    """Two classes, ALL first: metrics whose unit is the donor, and those of the cell's area alone."""

    def scored(scores: np.ndarray, threshold: float = 0.5) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            summary = DonorScores.of(labels == 0, scores, subjects, threshold=threshold).summary()
        except ValueError as error:
            raise BlastlensError(f"The external validation cannot be computed: {error}.") from None
        value = {key: one.value if isinstance(one, Interval) else one for key, one in summary.items()}
        return {key: summary[key] for key in DONOR_METRICS if not np.isnan(value[key])}, summary

    found, summary = scored(probabilities[:, 0])
    of_network = {
        **{key: summary[key] for key in ("subjects", "healthy_donors")},
        "healthy_images": int((labels == 1).sum()),
        "min_images": MIN_IMAGES,
        "metrics": found,
        "per_subject": [
            {key: one[key] for key in ("donor", "positive", "images", "rate")} for one in summary["donors"]
        ],
    }
    if not folder.dataset.known:  # the baseline is that of segmented cells
        return of_network
    scale, frame = (VIEW_OF_FRAME / folder.view.size) ** 2, RAW_CELL_SIDE**2
    areas = np.array([np.count_nonzero(cell_mask(np.asarray(image))) for image in pixels]) * scale
    by_area, _ = scored(np.clip(areas / frame, 0, 1), LEUKEMIC_AREA / frame)
    return of_network | {
        "baseline": {
            "name": "cell area",
            "rule": f"{folder.label_names[0]} above {LEUKEMIC_AREA:,} px of the {RAW_CELL_SIDE} px frame",
            "metrics": by_area,
        },
    }


def _by_group(
    folder: ModelFolder, labels: np.ndarray, probabilities: list[np.ndarray], subjects: list[str]
) -> dict[str, Any]:
    """Several classes: means over classes, and macro F1 under noise."""
    rows = [bootstrap.summary(labels, p, subjects, folder.label_names) for p in probabilities]
    noisy = zip(SIGMAS[1:], rows[1:], strict=True)
    return {
        "groups": len(set(subjects)),
        "metrics": {key: rows[0][key] for key in ("macro_f1", "balanced_accuracy", "ece")},
        "by_sigma": [{"sigma": sigma, "macro_f1": row["macro_f1"].value} for sigma, row in noisy],
    }
