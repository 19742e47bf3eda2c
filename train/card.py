"""Model cards: the README.md and figures of a model folder, rendered from what was measured.

    python -m train.card models/mobilenetv1-cnmc2019

The prose is in `model_card.md` of the project.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import UndefinedError

from blastlens import external_result
from blastlens.dataset_info import OOD_TEST_IMAGES, UNKNOWN, DatasetInfo, trained_on
from blastlens.errors import BlastlensError
from blastlens.files import replace
from blastlens.metrics import ECE_BINS, constant_weighted_f1
from blastlens.noise import MAX_SIGMA
from blastlens.view import View
from train.command import reports_errors
from train.report import figures
from train.report.models import RESULTS, baselines_of, read_json
from train.report.templates import ROOT, filled
from train.results import LEVELS

SIGMAS = (0, 10, 20)  # of the noise, in the model-index and at the top; the card's table has them all
WORST = 3  # groups of each class that are listed
# First weights that are not on the Hub -> the nearest page there: the same architecture and training set.
BASE_MODELS = {
    "mobilenetv1_100.in1k.safetensors": "google/mobilenet_v1_1.0_224",
    "mobilenetv2_100.in1k.safetensors": "google/mobilenet_v2_1.0_224",
}
# Key in metrics.json -> the metric's type as the Hub calls it, its name, and how it is averaged over the classes.
METRICS = {
    "weighted_f1": ("f1", "weighted F1", {"average": "weighted"}),
    "macro_f1": ("f1", "macro F1", {"average": "macro"}),
    "accuracy": ("accuracy", "accuracy", {}),
    "balanced_accuracy": ("balanced_accuracy", "balanced accuracy", {}),
    "auroc": ("roc_auc", "AUROC", {}),
    "sensitivity": ("recall", "sensitivity", {}),
    "specificity": ("specificity", "specificity", {}),
    "ece": ("expected_calibration_error", "expected calibration error", {}),
}


def render(folder: Path, repo_id: str | None = None) -> dict[str, bytes]:
    """The card's files by their path in the folder: README.md and figures/*.png.

    Args:
        folder: model folder with config.json and metrics.json.
        repo_id: "owner/name" for code examples; without it they name `models/` and the model's name.

    Raises:
        BlastlensError: a file is missing, damaged, or lacks a value that the card needs.
    """
    config = read_json(folder / "config.json")
    metrics = read_json(folder / "metrics.json")
    try:
        if "published" in metrics:
            text = _system_text(folder, config, metrics, repo_id)
            return {"README.md": ModelCard(text).content.encode()}
        protocol = metrics["protocols"][0]
        compared = baselines_of(metrics)
        floors = _floors(protocol["by_sigma"][0]["per_class"], compared["baselines"])
        drawn = {"noise": figures.card_noise(protocol["by_sigma"], f"{protocol['name']}, 95 % band", floors)}
        if protocol.get("reliability"):
            drawn["calibration"] = figures.card_calibration(protocol["reliability"])
        text = _text(folder, config, metrics, repo_id, floors=floors, **compared)
    except (AttributeError, LookupError, StopIteration, TypeError, ValueError, UndefinedError) as error:
        raise BlastlensError(
            f"The card of {folder} cannot be rendered: metrics.json or gate.json lacks something "
            f"({type(error).__name__}: {error}); measure the folder again with `python -m train.evaluate`."
        ) from error
    pngs = {f"figures/{name}.png": figures.png(figure) for name, figure in drawn.items()}
    return {"README.md": ModelCard(text).content.encode(), **pngs}


def _text(
    folder: Path, config: dict[str, Any], metrics: dict[str, Any], repo_id: str | None, **measured: dict[str, Any]
) -> str:
    protocol, training = metrics["protocols"][0], metrics["training"]
    data = trained_on(metrics["label_names"], metrics)
    on_hub = re.fullmatch(r"([\w.-]+/[\w.-]+)( from the Hub)?", training["initial_weights"])
    base_model = BASE_MODELS.get(training["initial_weights"]) or (on_hub and on_hub[1])
    return filled(
        "model_card",
        **measured,
        **_common(folder, config, metrics, base_model),
        place=repo_id or f"models/{metrics['model']}",
        on_hub=repo_id is not None,
        gate=read_json(folder / "gate.json", {}),
        images_published=read_json(RESULTS / "comparison.json")["datasets"].get(data.name, {}).get("images_published"),
        parameters=read_json(RESULTS / "networks.json").get(training["recipe"]["name"], {}).get("parameters")
        if data.known
        else None,
        external_sentence=external_result.sentence(metrics),
        ood_test_images=OOD_TEST_IMAGES,
        worst_groups=_worst_groups(protocol["per_group"], metrics["label_names"], data),
        by_answer=_by_answer(protocol.get("reliability_by_answer", {})),
        noisy=SIGMAS[1:],
        ece_bins=ECE_BINS,
        max_sigma=MAX_SIGMA,
        pinned=pinned,
        unknown=UNKNOWN,
    )


def _system_text(folder: Path, config: dict[str, Any], metrics: dict[str, Any], repo_id: str | None) -> str:
    """The card of a published system, which `train.system_models` exports."""
    papers = read_json(RESULTS / "comparison.json")["papers"]
    return filled(
        "SYSTEM_CARD",
        **_common(folder, config, metrics, None),
        published=metrics["published"],
        paper=papers[metrics["published"]["paper"]],
        two=len(metrics["label_names"]) == 2,
        place=repo_id or folder.name,
    )


def _common(folder: Path, config: dict[str, Any], metrics: dict[str, Any], base_model: str | None) -> dict[str, Any]:
    """What both kinds of cards say."""
    data, needs_code = trained_on(metrics["label_names"], metrics), "auto_map" in config
    recipe = metrics["training"]["recipe"]
    return {
        "metrics": metrics,
        "data": data,
        "needs_code": needs_code,
        "base_model": base_model,
        "card_data": _front_matter(metrics, data, needs_code, base_model).to_yaml(),
        "view": View.from_folder(config, read_json(folder / "preprocessor_config.json", {}) or None),
        "project": yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8")),
        "recipe_yaml": yaml.safe_dump(recipe, sort_keys=False, width=110, allow_unicode=True).strip(),
        "levels": LEVELS,
    }


def _floors(per_class: dict[str, Any], baselines: dict[str, Any]) -> dict[str, float]:
    """Weighted F1 that needs no skill, or no network, by what reaches it; the latter on images without noise."""
    floors = {}
    if found := {name: one["weighted_f1"]["value"] for name, one in baselines.items()}:
        best = max(found, key=lambda name: found[name])
        floors[f"{best.removesuffix(' alone')} alone, no network (without noise)"] = found[best]
    supports = {name: row["support"] for name, row in per_class.items()}
    most = max(supports, key=lambda name: supports[name])
    return {**floors, f"always predicting {most}": constant_weighted_f1(supports[most] / sum(supports.values()))}


def _by_answer(reliability: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """By predicted label, `count`, mean `stated` probability and share `right` of the predictions below the highest
    bin, whose lower end is `sure`; the most overconfident label first. Empty where it was not measured."""
    sure = max((one["low"] for bins in reliability.values() for one in bins), default=1.0)
    found = {}
    for answer, bins in reliability.items():
        unsure = [one for one in bins if one["low"] < sure]
        if count := sum(one["count"] for one in unsure):
            stated, right = (
                sum(one["count"] * one[key] for one in unsure) / count for key in ("confidence", "accuracy")
            )
            found[answer] = {"count": count, "stated": stated, "right": right, "sure": sure}
    return dict(sorted(found.items(), key=lambda item: item[1]["count"] * (item[1]["right"] - item[1]["stated"])))


def _worst_groups(per_group: list[dict[str, Any]], labels: Sequence[str], data: DatasetInfo) -> list[dict[str, Any]]:
    """The worst groups of each class, those of the healthy first, since they are few."""
    healthy = data.healthy_groups and data.healthy_groups[0]
    groups = sorted(per_group, key=lambda group: (group["accuracy"], group["group"]))
    names = sorted(labels, key=lambda name: name != healthy)
    return [group for name in names for group in [g for g in groups if g["label"] == name][:WORST]]


def _front_matter(
    metrics: dict[str, Any], data: DatasetInfo, needs_code: bool, base_model: str | None
) -> ModelCardData:
    """What the Hub reads of a card."""
    tags = ["image-classification", "timm", "transformers", "onnx", "safetensors"]
    tags += ["custom_code"] if needs_code else []
    tags += ["medical-imaging", "leukemia", "blood-smear"] if data.known else []
    tags += ["noise-robustness", "calibration", "not-a-medical-device"]
    return ModelCardData(
        library_name="transformers" if needs_code else "timm",
        pipeline_tag="image-classification",
        license="other",
        license_name=UNKNOWN if data.terms == UNKNOWN else "terms-of-the-training-data",
        license_link=f"https://doi.org/{data.doi}" if data.doi else None,
        **({"base_model": base_model, "base_model_relation": "finetune"} if base_model else {}),
        datasets=[data.hub_name],
        metrics=list(dict.fromkeys(kind for kind, _, _ in METRICS.values())),
        tags=tags,
        model_name=metrics["model"],
        eval_results=eval_results(metrics, data),
    )


def eval_results(metrics: dict[str, Any], data: DatasetInfo) -> list[EvalResult]:
    """The model-index: one entry, which names its protocol, for each noise level and metric that is defined."""
    found = []
    for protocol in metrics["protocols"]:
        level = LEVELS[protocol["level"]]
        for row in (row for row in protocol["by_sigma"] if row["sigma"] in SIGMAS):
            where = f"{protocol['name']} ({level}), noise sigma {row['sigma']:g}"
            arguments = {
                "protocol": protocol["name"],
                "level": level,
                "images": protocol["n_images"],
                "groups": protocol["n_groups"],
                "seeds": list(protocol["seeds"]),
                "noise_sigma": row["sigma"],
                "calibration": protocol["calibration"],
            }
            found += [
                EvalResult(
                    task_type="image-classification",
                    task_name="Image classification",
                    dataset_type=data.hub_name,
                    dataset_name=f"{data.title}, {where}",
                    # The Hub tells entries apart by these two.
                    dataset_config=protocol["name"],
                    dataset_split=f"sigma {row['sigma']:g}",
                    dataset_args=arguments,
                    metric_type=kind,
                    metric_name=f"{name}, {where}",
                    metric_value=row[key]["value"],
                    metric_args={
                        **average,
                        **_positive(metrics["label_names"], key),
                        "interval": "95 % bootstrap over groups",
                        "low": row[key]["low"],
                        "high": row[key]["high"],
                    },
                )
                for key, (kind, name, average) in METRICS.items()
                if key in row and row[key]["value"] is not None
            ]
    return found


def _positive(labels: Sequence[str], key: str) -> dict[str, str]:
    """Which class a score of two classes is about, or how one of a single class becomes one of several."""
    if len(labels) == 2 and key in ("auroc", "sensitivity", "specificity"):
        return {"positive_class": labels[0]}
    return {"average": "macro", "multi_class": "one versus rest"} if key == "auroc" else {}


def pinned(*packages: str) -> str:
    """The packages as `pip install` takes them, with the versions in requirements.txt."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines())
    pins = {line.partition("==")[0]: line for line in lines if line}
    return " ".join(pins[name] for name in packages)


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the card into each folder. Returns 2 where one cannot be rendered or written."""
    parser = argparse.ArgumentParser(prog="python -m train.card", description="Render the cards of model folders.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--repo-id", help="name of the model in code examples (default: models/FOLDER)")
    arguments = parser.parse_args(argv)
    for folder in arguments.folders:
        for name, content in render(folder, arguments.repo_id).items():
            replace(folder / name, partial(Path.write_bytes, data=content))
        print(folder / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
