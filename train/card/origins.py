"""What a card says about the weights that training started from, and about our own recipes."""

import re
from dataclasses import dataclass

from blastlens.dataset_info import UNKNOWN


@dataclass(frozen=True)
class FirstWeights:
    """What training started from: in words, the Hub page of that network, if there is one, and a remark."""

    words: str
    hub_name: str | None = None
    remark: str = ""


_REMARK = (
    "The front matter's `base_model` names the nearest page on the Hub: the same architecture and training set, but "
    "other weights; this file came from {maker}"
)
_FIRST_WEIGHTS = {
    "random": FirstWeights("random numbers, no earlier training"),
    "mobilenetv1_100.in1k.safetensors": FirstWeights(
        "ImageNet-1k weights of TensorFlow's MobileNetV1 1.0 224 (trained for quantisation, converted back, its "
        "batch-norm statistics estimated again), Apache-2.0",
        "google/mobilenet_v1_1.0_224",
        _REMARK.format(maker="TensorFlow"),
    ),
    "mobilenetv2_100.in1k.safetensors": FirstWeights(
        "ImageNet-1k weights of Keras's MobileNetV2 1.0 224, Apache-2.0",
        "google/mobilenet_v2_1.0_224",
        _REMARK.format(maker="Keras"),
    ),
}


def first_weights_of(initial_weights: str) -> FirstWeights:
    """What is known about the first weights that metrics.json records: the name of a file or of a Hub repository."""
    if initial_weights in _FIRST_WEIGHTS:
        return _FIRST_WEIGHTS[initial_weights]
    on_hub = re.fullmatch(r"([\w.-]+/[\w.-]+)( from the Hub)?", initial_weights)
    if on_hub:
        return FirstWeights(f"weights of `{on_hub[1]}` on the Hub, under that repository's terms", on_hub[1])
    return FirstWeights(f"the file `{initial_weights}`, of origin and terms {UNKNOWN}")


@dataclass(frozen=True)
class RecipeNote:
    """What a card must say about one of our recipes: at the top, and among the limits."""

    headline: str
    limit: str


_SHARED_NAME = (
    "Not the published MobileNet_M (Makem, Tamas, Bușoniu 2025, doi 10.3389/frai.2025.1620252): it shares only "
    "{shared}; [recipe and weights are our own](#training)."
)
RECIPE_NOTES = {
    "features_cnmc2019": RecipeNote(
        _SHARED_NAME.format(shared="the architecture"),
        "The recipe was chosen among candidates that were compared on these same donors (results/SEARCH.md of the "
        "project), so the scores for a new hospital may be lower.",
    ),
    "ours_cnmc2019": RecipeNote(
        _SHARED_NAME.format(shared="name and idea"),
        "The recipe was chosen by short cross-validated runs on these same subjects, so the scores for a new hospital "
        "may be lower.",
    ),
    "ours_aria2021": RecipeNote(
        "",
        "The recipe's image size was chosen by cross-validated runs on these same images, so the scores for other "
        "slides may be lower.",
    ),
}
# Names of the test images of the OOD detection.
OOD_TEST_IMAGES = {
    "photos": "photographs",
    "bccd_fields": "whole smear fields (BCCD)",
    "aria2021": "smear fields (4-class set)",
    "cnmc2019": "single cells (C-NMC 2019)",
}
