"""What the tests of batch scoring share: a network that takes no time, folders of synthetic cells, reading results."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
from helpers_models import LABELS, PREPROCESSOR, config_json, write_json
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from blastlens.batch_scoring.scorer import BatchScorer
from blastlens.synthetic_images import synthetic_image

ROOT = Path(__file__).resolve().parents[1]
SIDE = 32


def tiny_model(path: Path) -> Path:
    """A model folder for single cells of 32 px: the mean colour and one linear layer, in a twentieth of a millisecond.

    It has OOD detection, which wants some black, and thresholds.
    """
    (path / "onnx").mkdir(parents=True)
    weight = np.array([[9.0, -4.0, 1.0], [-2.0, 5.0, -3.0]], np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "weight"], ["logits"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])]
    graph = helper.make_graph(nodes, "mean", inputs, outputs, [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path / "onnx/model.onnx")
    config = config_json("cell")
    config["pretrained_cfg"] |= {"input_size": [3, SIDE, SIDE]}
    write_json(path / "config.json", config)
    side = {"height": SIDE, "width": SIDE}
    write_json(path / "preprocessor_config.json", PREPROCESSOR | {"size": side, "crop_size": side})
    write_json(path / "gate.json", {"schema": 1, "images": "cells", "statistics": {"black": {"low": 0.2, "high": 1}}})
    thresholds = {label: 0.4 for label in LABELS["cell"]}
    figures = {
        "operating_point": {"labels": ["ALL"], "threshold": 0.6},
        "prediction_sets": {"asked": 0.9, "holds": True, "thresholds": thresholds},
    }
    write_json(path / "metrics.json", {"schema": 1, "model": path.name, "protocols": [], "calibration": figures})
    return path


def cells(folder: Path, number: int) -> list[Path]:
    """So many synthetic cells, numbered with three digits, and every tenth one a picture without any black."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{n:03d}.png" for n in range(number)]
    for n, file in enumerate(files):
        cell = synthetic_image("ALL" if n % 2 else "HEM", n % 7).resize((SIDE + n % 5, SIDE + n % 5))
        (cell if n % 10 else Image.new("RGB", cell.size, (200, n, 90))).save(file)
    return files


def rows(file: Path) -> list[dict]:
    """The results, one dictionary per row."""
    return pq.read_table(file).to_pylist()


def command_line(*arguments: object, preamble: str = "", **more) -> subprocess.Popen:
    """`python -m blastlens score` as a process of its own, after some lines of Python."""
    script = f"import sys\n{preamble}\nfrom blastlens.cli import main\nsys.exit(main(['score', *sys.argv[1:]]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **more,
    )


def metadata(file: Path) -> dict[str, str]:
    """What a results file says of itself."""
    found = pq.read_schema(file).metadata
    return {key.decode(): value.decode() for key, value in found.items()}


def identity(file: Path) -> dict:
    """The command that a results file came from."""
    return json.loads(metadata(file)["blastlens.command"])


def interrupt(monkeypatch, parts: int, run: Callable[[], object]) -> None:
    """A run in this process that is interrupted after so many parts are written."""
    write_part = BatchScorer.write_part

    def failing(self, part, *more):
        if part.name >= f"part-{parts:06d}":
            raise InterruptedError
        write_part(self, part, *more)

    with monkeypatch.context() as patch, suppress(InterruptedError):
        patch.setattr(BatchScorer, "write_part", failing)
        run()
