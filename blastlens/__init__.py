"""blastlens: leukemia (ALL) screening models for blood-smear images, served with their noise behaviour.

    from blastlens import Classifier

    classifier = Classifier.from_pretrained("mobilenetv1-cnmc2019")
    classifier.predict("cell.bmp").label

Research demonstration, not a medical device.
"""

import os

# ONNX Runtime 1.29 and later sends usage data to its maker unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from .classifier import Classifier
from .corruptions import Corruption
from .errors import BlastlensError
from .images import open_image
from .model_folder import bundled_models
from .predictions import DISCLAIMER, Curve, Prediction

__all__ = [
    "DISCLAIMER",
    "BlastlensError",
    "Classifier",
    "Corruption",
    "Curve",
    "Prediction",
    "bundled_models",
    "open_image",
]
