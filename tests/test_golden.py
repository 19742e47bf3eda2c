"""Recorded outputs of the bundled models: a change of the code that changes a result is seen here.

Record again with `PYTHONPATH=. python tests/test_golden.py` and review the difference. The images are synthetic ones
beside the record, and real ones where BLASTLENS_DATA names a folder. Cards are compared by test_bundled_models.py.
"""

import io
import json
import os
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from blastlens import Classifier, bundled_models
from blastlens.cli import main
from blastlens.corruptions import Corruption
from blastlens.errors import BlastlensError

HERE = Path(__file__).parent / "golden"
REAL = {
    "cell": ("cnmc2019/fold_0/all/*.webp", "cnmc2019/fold_1/hem/*.webp", "cnmc2019_raw_sample/**/*.bmp"),
    "field": ("aria2021/Original/Benign/*", "aria2021/Original/Pro/*"),
}
CORRUPTIONS = {None: 0, "gaussian_noise": 20, "jpeg": 30, "defocus": 2, "stain_hue": 15, "downsample": 2, "shift": 10}
SIGMAS = (0, 5, 10, 20, 50)


def kind_of(model: str) -> str:
    return "field" if "aria" in model else "cell"


def synthetic_images(kind: str) -> list[Path]:
    return sorted(HERE.glob(f"{kind}_*.png"))


def real_images(kind: str, data: Path) -> list[Path]:
    return [min(data.glob(pattern)) for pattern in REAL[kind]]


def outputs_of_image(classifier: Classifier, image: Path) -> dict[str, Any]:
    changes = [Corruption(kind, level) if kind else None for kind, level in CORRUPTIONS.items()]
    curve = classifier.noise_curve(image, sigmas=SIGMAS)
    return {
        "predictions": [classifier.predict(image, corruption=change).to_dict() for change in changes],
        "prevalence 0.1": classifier.predict(image, prevalence=0.1).probabilities,
        "curve": curve.probabilities.tolist(),
        "flip": curve.flip_sigma,
        "activation map": coarse_activation_map(classifier, image),
    }


def coarse_activation_map(classifier: Classifier, image: Path) -> list[list[float]] | str:
    try:
        activation = classifier.activation_map(image)
    except BlastlensError as error:
        return str(error)
    side = activation.shape[0] // 4
    return activation.reshape(4, side, 4, side).mean((1, 3)).tolist()


def outputs_of_commands(model: str, folder: Path) -> dict[str, Any]:
    images = [str(path) for path in synthetic_images(kind_of(model))]
    printed = {}
    for form in ("table", "json", "csv"):
        with redirect_stdout(io.StringIO()) as out:
            main(["classify", "--model", model, "--format", form, *images])
        printed[form] = out.getvalue().replace(str(HERE), "golden")
    rows = folder / f"{model}.parquet"
    with redirect_stdout(io.StringIO()):
        main(["score", "--model", model, "--out", str(rows), *images])
    table = [row | {"file": Path(row["file"]).name} for row in pq.read_table(rows).to_pylist()]
    return {"classify": json.loads(printed["json"]), "csv": printed["csv"].splitlines()[0], "score": table}


def outputs(images_of: Any, commands: bool) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for model in bundled_models():
        classifier = Classifier.from_pretrained(model)
        record[model] = {path.name: outputs_of_image(classifier, path) for path in images_of(kind_of(model))}
        if commands:
            with tempfile.TemporaryDirectory() as folder:
                record[model]["commands"] = outputs_of_commands(model, Path(folder))
    return json.loads(json.dumps(record, default=str).replace(str(HERE), "golden"))


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Numbers within what another processor changes, everything else exactly."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}/{i}")
    elif isinstance(expected, float):
        assert np.isclose(found, expected, rtol=0.001, atol=0.001), (where, found, expected)
    else:
        assert found == expected, (where, found, expected)


@pytest.mark.slow
def test_outputs_on_synthetic_images_are_those_recorded():
    assert_same(outputs(synthetic_images, commands=True), json.loads((HERE / "synthetic.json").read_text()))


@pytest.mark.slow
def test_outputs_on_real_images_are_those_recorded(data_dir):
    found = outputs(lambda kind: real_images(kind, data_dir), commands=False)
    assert_same(found, json.loads((HERE / "real.json").read_text()))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    for name, record in {
        "synthetic": outputs(synthetic_images, commands=True),
        "real": outputs(lambda kind: real_images(kind, Path(os.environ["BLASTLENS_DATA"])), commands=False),
    }.items():
        (HERE / f"{name}.json").write_text(json.dumps(rounded(record), indent=1) + "\n", encoding="utf-8")
