"""Made-up records of runs, for tests of what is done with them."""

from typing import Any

import numpy as np

from train.results import Result


def made_up_result(n: int = 24, seed: int = 0, skill: float = 1.0, **changes: Any) -> Result:
    """A record of `n` test images in six groups; labels and groups follow the position, probabilities `seed` and
    `skill` (0 guesses). Any field can be given."""
    rng = np.random.default_rng(seed)
    names = changes.pop("label_names", ("ALL", "HEM"))
    sigmas = tuple(float(s) for s in changes.pop("sigmas", (0.0, 10.0)))
    index = np.asarray(changes.pop("index", np.arange(n)))
    group = index % 6
    label = group % len(names)
    logits = rng.normal(0, 1, (len(sigmas), n, len(names)))
    logits[:, np.arange(n), label] += 2 * skill
    exponentials = np.exp(logits)
    return Result(
        **{
            "system": "mobilenet_m",
            "paper": "P4",
            "recipe_digest": "00000000",
            "changes": {},
            "protocol": "group-kfold:3",
            "fold": 1,
            "folds": 3,
            "seed": 0,
            "initial_weights": "mobilenetv1_100.in1k.safetensors",
            "backbone": "mobilenetv1_100",
            "image_size": 224,
            "precision": "fp32",
            "device": "CPU",
            "dataset": {"name": "cnmc2019", "hash": "0" * 64, "images": n},
            "images": {"train": 2 * n, "val": 0, "test": n},
            "groups": {"train": 12, "val": 0, "test": 6},
            "label_names": tuple(names),
            "parameters": 3_000_000,
            "multiply_adds": 570_000_000,
            "epochs": 2,
            "steps": 60,
            "planned_steps": 60,
            "seconds": 60.0,
            "versions": {"torch": "2.11.0"},
            "sigmas": sigmas,
            "index": index,
            "label": label,
            "group_names": tuple("abcdef"),
            "group": group,
            "probabilities": exponentials / exponentials.sum(2, keepdims=True),
        }
        | changes
    )
