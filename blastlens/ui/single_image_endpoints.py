"""The public endpoints for one image: `classify` and `noise_curve`."""

from collections.abc import Callable
from typing import Any, Literal

import gradio as gr
import numpy as np

from ..classifier import suggesting
from ..corruptions import KINDS, Corruption
from ..errors import BlastlensError
from ..noise import checked_seed
from .endpoints import endpoint, example_file
from .model_registry import Shelf, provenance
from .uploads import path_of
from .words import NOISE

MAX_PATTERNS = 8
_OTHER_KINDS = Literal["none", *(kind for kind in KINDS if kind != NOISE)]  # type: ignore[valid-type]
_ALL_KINDS = Literal[*KINDS]  # type: ignore[valid-type]


def add_endpoints(shelf: Shelf) -> None:
    """Add both endpoints to the Blocks that are being built."""
    first, cell = shelf.first.folder.model_id, example_file("cell.bmp")
    settings: dict[str, Any] = {"image": cell, "model": first, "seed": 0, "prevalence": 0.5}
    endpoint(_classify_of(shelf), **settings, sigma=10, corruption="blur", level=2)
    endpoint(_noise_curve_of(shelf), **settings, kind=NOISE, patterns=4)


def _classify_of(shelf: Shelf) -> Callable[..., dict[str, Any]]:
    def classify(
        image: gr.FileData,
        model: str = "",
        sigma: float = 0,
        seed: int = 0,
        corruption: _OTHER_KINDS = "none",  # type: ignore[valid-type]
        level: float = 0,
        prevalence: float = 0,
    ) -> dict[str, Any]:
        """Classify one image, optionally corrupted first. Research demonstration, not a medical device.

        Args:
            image: a PNG, JPEG, BMP, GIF, TIFF or WebP file of up to 50 megapixels.
            {model}
            sigma: standard deviation of added Gaussian noise on the 0 to 255 scale, 0 to 100.
            seed: of the noise, an integer from 0; the same seed gives the same noise.
            corruption: another corruption, applied before the noise.
            level: of the corruption, on its own scale; a level out of range is refused with the range.
            {prevalence}

        Returns:
            label, probabilities by label (calibrated over all predictions together, not for each label), logits,
            in_domain (whether the image passed the out-of-distribution check), suggestion (another model that the image
            fits, if it was rejected), label_set (the labels that cannot be ruled out, or null), flagged (whether it
            reaches the operating point, or null), warnings (the first: the model's external validation), model_id,
            revision, sigma, corruption, prevalence (null if the model states none), disclaimer.
        """
        change = None if corruption == "none" else Corruption(corruption, level)
        path = path_of(image)
        prediction = shelf.classifier(model).predict(path, sigma, seed, change, prevalence or None)
        return suggesting(prediction, path, shelf.classifiers.values()).to_dict()

    return classify


def _noise_curve_of(shelf: Shelf) -> Callable[..., dict[str, Any]]:
    def noise_curve(
        image: gr.FileData,
        model: str = "",
        kind: _ALL_KINDS = NOISE,
        patterns: int = 1,
        seed: int = 0,
        prevalence: float = 0,
    ) -> dict[str, Any]:
        """The prediction for one image at each level of a corruption. Research demonstration, not a medical device.

        Args:
            image: a PNG, JPEG, BMP, GIF, TIFF or WebP file of up to 50 megapixels.
            {model}
            kind: of the corruption.
            patterns: number of noise patterns to average, 1 to 8.
            seed: of the first pattern, an integer from 0.
            {prevalence}

        Returns:
            levels, probabilities by label (a list, one per level; mean over patterns), low and high (the same, over
            patterns), flip_level (nearest to no change at which the label is another one, or null), and as in
            classify: warnings, in_domain, model_id, revision, sigma, prevalence, disclaimer.
        """
        classifier, path = shelf.classifier(model), path_of(image)
        if isinstance(patterns, bool) or not isinstance(patterns, int) or not 1 <= patterns <= MAX_PATTERNS:
            raise BlastlensError(f"patterns is {patterns!r}; an integer from 1 to {MAX_PATTERNS} is accepted.")
        seeds = seeds_from(checked_seed(seed), patterns)
        curve = classifier.curve(path, kind, seeds=seeds, prevalence=prevalence or None)
        clean = classifier.predict(path, prevalence=prevalence or None)

        def by_label(rows: np.ndarray) -> dict[str, list[float]]:
            return dict(zip(curve.label_names, rows.T.tolist(), strict=True))

        return {
            "kind": kind,
            "levels": list(curve.levels),
            "probabilities": by_label(curve.probabilities),
            "low": by_label(curve.low),
            "high": by_label(curve.high),
            "flip_level": curve.flip_level,
            "in_domain": clean.in_domain,
            "prevalence": clean.prevalence,
            **provenance(classifier.folder, warnings=clean.warnings),
        }

    return noise_curve


def seeds_from(first: int, count: int) -> tuple[int, ...]:
    """Consecutive seeds; those past the largest start over at 0."""
    return tuple((first + number) % 2**64 for number in range(count))
