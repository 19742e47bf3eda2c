"""The front matter: what the Hub reads of a card. Every entry of its model-index names the protocol it comes from."""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from blastlens.dataset_info import UNKNOWN
from train.card.facts import Facts
from train.results import LEVELS

SIGMAS = (0, 10, 20)  # of the noise, in the model-index; the card's table has them all
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


def card_data(facts: Facts) -> ModelCardData:
    """The whole front matter."""
    data = facts.data
    base = {"base_model": facts.origin.hub_name, "base_model_relation": "finetune"} if facts.origin.hub_name else {}
    return ModelCardData(
        library_name="transformers" if facts.needs_code else "timm",
        pipeline_tag="image-classification",
        license="other",
        license_name=UNKNOWN if data.terms == UNKNOWN else "terms-of-the-training-data",
        license_link=f"https://doi.org/{data.doi}" if data.doi else None,
        **base,
        datasets=[data.hub_name],
        metrics=list(dict.fromkeys(kind for kind, _, _ in METRICS.values())),
        tags=[
            "image-classification",
            "timm",
            "transformers",
            "onnx",
            "safetensors",
            *(["custom_code"] if facts.needs_code else []),
            "medical-imaging",
            "leukemia",
            "blood-smear",
            "noise-robustness",
            "calibration",
            "not-a-medical-device",
        ],
        model_name=facts.name,
        eval_results=eval_results(facts),
    )


def eval_results(facts: Facts) -> list[EvalResult]:
    """One entry for each protocol, noise level and metric that is defined."""
    return [
        result
        for protocol in facts.metrics["protocols"]
        for row in protocol["by_sigma"]
        if row["sigma"] in SIGMAS
        for result in _row(facts, protocol, row)
    ]


def _positive(facts: Facts, key: str) -> dict[str, str]:
    """Which class a score of two classes is about, or how one of a single class becomes one of several."""
    if len(facts.metrics["label_names"]) == 2 and key in ("auroc", "sensitivity", "specificity"):
        return {"positive_class": facts.metrics["label_names"][0]}
    return {"average": "macro", "multi_class": "one versus rest"} if key == "auroc" else {}


def _row(facts: Facts, protocol: dict[str, Any], row: dict[str, Any]) -> list[EvalResult]:
    level = LEVELS[protocol["level"]]
    where = f"{protocol['name']} ({level}), noise sigma {row['sigma']:g}"
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=facts.data.hub_name,
            dataset_name=f"{facts.data.title}, {where}",
            # The Hub tells entries apart by these two.
            dataset_config=protocol["name"],
            dataset_split=f"sigma {row['sigma']:g}",
            dataset_args={
                "protocol": protocol["name"],
                "level": level,
                "images": protocol["n_images"],
                "groups": protocol["n_groups"],
                "seeds": list(protocol["seeds"]),
                "noise_sigma": row["sigma"],
                "calibration": protocol["calibration"],
            },
            metric_type=kind,
            metric_name=f"{name}, {where}",
            metric_value=row[key]["value"],
            metric_args={
                **average,
                **_positive(facts, key),
                "interval": "95 % bootstrap over groups",
                "low": row[key]["low"],
                "high": row[key]["high"],
            },
        )
        for key, (kind, name, average) in METRICS.items()
        if key in row and row[key]["value"] is not None
    ]
