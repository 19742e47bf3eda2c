"""Records of how far a model can be trusted, in the form that train.evaluate writes, with made-up figures.

Every figure follows from a formula, and no two that stand near each other are the same: a test can tell them apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from blastlens.corruptions import KINDS

SIGMAS = (0, 2, 5, 6, 8, 10)


def interval(value: float, half: float = 0.02) -> dict[str, float]:
    """A value with an interval around it."""
    return {"value": round(value, 5), "low": round(value - half, 5), "high": round(value + half, 5)}


def trust_record(labels: Sequence[str], kinds: Sequence[str] = tuple(KINDS)) -> dict[str, Any]:
    """The keys robustness, calibration, probes and patients of a metrics.json; no patients for other labels than ALL
    and HEM, as of the data set that names none."""
    cells = tuple(labels) == ("ALL", "HEM")
    baseline = "cell area and colour" if cells else "colour histogram"
    return {
        "robustness": robustness(kinds, baseline),
        "calibration": calibration(labels),
        "probes": probes(baseline),
        "patients": patients() if cells else None,
    }


def robustness(kinds: Sequence[str], baseline: str) -> dict[str, Any]:
    clean = 0.87
    record = {
        "protocol": "group-kfold:3",
        "seed": 0,
        "every": 5,
        "images": 1531,
        "groups": 35,
        "baseline": {
            "name": baseline,
            "what": f"Logistic regression on the {baseline} of the same spoiled images, fitted on unspoiled ones.",
            "clean_error": 0.2651,
        },
        "clean": _scores(clean),
        "kinds": [_kind(name, place, clean) for place, name in enumerate(kinds, start=1)],
    }
    return record | {
        "summary": {
            "mce": interval(0.713, 0.05),
            "relative_mce": interval(0.642, 0.06),
            "relative_mce_kinds": sum(bool(place % 3) for place in range(1, len(kinds) + 1)),
            "mean_weighted_f1": interval(0.791),
            "mean_flip_rate": interval(0.117),
            "mean_ece": interval(0.051),
            "worst_kind": kinds[-1],
            "sigma_minus_1": 17.3,
            "sigma_minus_5": None,
        }
    }


def _kind(name: str, place: int, clean: float) -> dict[str, Any]:
    kind = KINDS[name]
    severities = []
    for severity in range(1, 6):
        lost = 0.0031 * severity * place
        severities.append(
            {
                "severity": severity,
                "level": kind.severities[severity - 1],
                **_scores(clean - lost),
                "flip_rate": interval(0.9 * lost + 0.004, 0.003),
                "lost": interval(lost, 0.015),
                "baseline_error": round(0.27 + 0.5 * lost, 5),
            }
        )
    return {
        "kind": name,
        "title": kind.title,
        "unit": kind.unit,
        "explanation": kind.explanation,
        "source": kind.source,
        "both_ways": kind.both_ways,
        "severities": severities,
        "ce": interval(0.45 + 0.031 * place, 0.04),
        "relative_ce": interval(0.4 + 0.021 * place, 0.04) if place % 3 else None,
        "area_under_curve": round(clean - 0.0078 * place, 5),
        "relative_degradation": round(0.0107 * place, 5),
    }


def _scores(weighted_f1: float) -> dict[str, Any]:
    return {
        "weighted_f1": interval(weighted_f1, 0.045),
        "balanced_accuracy": interval(weighted_f1 - 0.006, 0.05),
        "auroc": interval(weighted_f1 + 0.06, 0.03),
        "ece": interval(0.031 + (0.87 - weighted_f1) / 4, 0.012),
        "aurc": interval(0.05 + (0.87 - weighted_f1) / 2, 0.012),
        "risk_coverage": risk_coverage(1 - weighted_f1),
    }


def risk_coverage(risk: float) -> list[dict[str, float]]:
    return [{"coverage": step / 10, "risk": round(risk * (step / 10) ** 2, 5)} for step in range(1, 11)]


def calibration(labels: Sequence[str]) -> dict[str, Any]:
    leukemic = [label for label in labels if label not in ("HEM", "Benign")]
    return {
        "scaling": "a temperature and a bias per class, fitted on the other folds' held-out images",
        "ece": interval(0.0234, 0.01),
        "classwise_ece": interval(0.0345, 0.01),
        "before": {"ece": interval(0.0567, 0.01), "classwise_ece": interval(0.0789, 0.01)},
        "by_sigma": [
            {"sigma": s, "ece": interval(0.0234 + s / 1000, 0.01), "classwise_ece": interval(0.0345 + s / 900, 0.01)}
            for s in SIGMAS
        ],
        "operating_point": {
            "labels": leukemic,
            "target": 0.95,
            "threshold": 0.3141,
            "of_folds": [0.2718, 0.3456],
            "sensitivity": interval(0.9531, 0.015),
            "specificity": interval(0.6172, 0.12),
            "plain": {"sensitivity": interval(0.9021, 0.03), "specificity": interval(0.7913, 0.1)},
            "how": "the largest threshold that reaches the target on the other folds' people",
            "by_sigma": [
                {
                    "sigma": s,
                    "sensitivity": interval(0.9531 - s / 400, 0.015),
                    "specificity": interval(0.6172 - s / 200, 0.12),
                }
                for s in SIGMAS
            ],
        },
        "prediction_sets": {
            "asked": 0.9,
            "method": "class-conditional conformal sets over groups (Dunn, Wasserman & Ramdas 2022)",
            "holds": True,
            "why": "The interval of the share that held the true label reaches what was asked for in every class.",
            "coverage": interval(0.9123),
            "coverage_by_class": {label: interval(0.9011 + place / 100) for place, label in enumerate(labels)},
            "worst_group": {"group": "H14, H24", "label": labels[-1], "images": 187, "coverage": 0.6417},
            "mean_size": interval(1.2345),
            "single": interval(0.7655),
            "thresholds": {label: 0.21 + place / 50 for place, label in enumerate(labels)},
            "by_sigma": [
                {"sigma": s, "coverage": interval(0.9123 - s / 300), "mean_size": interval(1.2345 + s / 100)}
                for s in SIGMAS
            ],
        },
        "risk_coverage": risk_coverage(0.1372),
        "aurc": interval(0.0432, 0.01),
    }


_PROBES = (
    ("rotation", "Turned by 90 degrees", "keeps", "The same picture on its side.", 0.863, True),
    ("shift", "Moved off the centre", "keeps", "The cell is moved and black fills what it leaves.", 0.852, True),
    ("jpeg", "Saved as JPEG of quality 75", "keeps", "What many programs do unless told otherwise.", 0.866, True),
    ("grey", "Without colour", "keeps", "Colour is taken away and brightness kept.", 0.761, False),
    ("background", "Only the background", "loses", "The cell itself is blacked out.", 0.531, True),
    ("silhouette", "Only the outline", "loses", "The cell is filled with one colour.", 0.742, False),
)


def probes(baseline: str) -> dict[str, Any]:
    return {
        "protocol": "group-kfold:3",
        "seed": 0,
        "every": 5,
        "images": 1531,
        "rows": [
            {
                "probe": name,
                "title": title,
                "expect": expect,
                "what": what,
                "weighted_f1": interval(score, 0.04),
                "balanced_accuracy": interval(score - 0.01, 0.04),
                "auroc": interval(score + 0.04, 0.03),
                "difference": interval(score - 0.87, 0.02),
                "measure": "difference" if expect == "keeps" else "auroc",
                "limit": 0.02 if expect == "keeps" else 0.7523,
                "reason": f"Why the limit of {name} stands where it does.",
                "passed": passed,
            }
            for name, title, expect, what, score, passed in _PROBES
        ],
        "without_network": [
            {
                "name": baseline,
                "weighted_f1": interval(0.7349, 0.06),
                "balanced_accuracy": interval(0.7228, 0.06),
                "auroc": interval(0.8123, 0.05),
            }
        ],
        "grey_is_healthy": {
            "called_HEM_in_colour": interval(0.0979, 0.03),
            "called_HEM_in_grey": interval(0.1741, 0.04),
            "difference": interval(0.0762, 0.02),
            "limit": 0.1,
            "reason": "A few may change sides.",
            "passed": True,
            "rows": [],
        },
    }


def patients() -> dict[str, Any]:
    rows = [_patient(f"{number}", "ALL", number, 0.97 - 0.023 * number) for number in range(1, 24)]
    rows += [_patient(f"H{number}", "HEM", number, 0.08 + 0.047 * number) for number in range(1, 13)]
    return {
        "protocol": "group-kfold:3",
        "rule": "A person is called leukemic where the mean probability of leukemia over their cells reaches it.",
        "threshold": 0.5432,
        "patients": rows,
        "sensitivity": interval(0.8696, 0.1),
        "specificity": interval(0.8333, 0.15),
        "auroc": interval(0.9565, 0.04),
        "by_sigma": [
            {"sigma": s, "sensitivity": interval(0.8696 - s / 200, 0.1), "specificity": interval(0.8333, 0.15)}
            for s in SIGMAS
        ],
        "by_cells": [
            {
                "cells": n,
                "sensitivity": interval(0.7 + n / 300, 0.08),
                "specificity": interval(0.6 + n / 250, 0.1),
                "people_with_fewer": n // 20,
            }
            for n in (1, 5, 20, 50)
        ],
        "undecided": sum(row["called"] == "undecided" for row in rows),
        "decided": {
            "people": sum(row["called"] != "undecided" for row in rows),
            "sensitivity": interval(0.9444, 0.05),
            "specificity": interval(0.8889, 0.1),
        },
        "at_half": {"sensitivity": interval(0.9131, 0.1), "specificity": interval(0.7501, 0.15)},
        "without_network": [
            {
                "name": "cell area",
                "sensitivity": interval(0.7391, 0.1),
                "specificity": interval(0.6667, 0.2),
                "auroc": interval(0.7821, 0.1),
            }
        ],
    }


def _patient(group: str, label: str, number: int, mean: float) -> dict[str, Any]:
    low, high = max(0, mean - 0.06), min(1, mean + 0.05)
    called = "undecided" if low < 0.5432 < high else "ALL" if mean > 0.5432 else "HEM"
    return {
        "group": group,
        "label": label,
        "images": 1 + 17 * number,
        "share": round(mean, 4),
        "mean": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "threshold": 0.5432,
        "called": called,
        "right": (mean >= 0.5432) == (label == "ALL"),
    }


def with_trust(metrics: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """A metrics.json with such a record; `changed` replaces some of its keys."""
    return {**metrics, **trust_record(metrics["label_names"]), **changed}


def gate_measured() -> dict[str, Any]:
    """`measured` of a gate.json of the second schema."""

    def rate(images: int, refused: int) -> dict[str, Any]:
        return {"images": images, "refused": refused, "rate": round(refused / images, 5)}

    missed = {"image": "wall.jpg", "reasons": []}
    mistaken = {"image": "UID_48_1_1_all.bmp", "reasons": ["contrast", "features"]}
    return {
        "held_out": {
            "protocol": "group-kfold:3",
            **rate(7651, 83),
            "mean_rate_of_groups": 0.00987,
            "worst_group": {"group": "48", "images": 268, "rate": 0.0373},
            "by_statistic": {"contrast": 40, "features": 43},
            "by_features_alone": 41,
            "wrong": [mistaken],
        },
        "varied": {"a fifth darker": rate(300, 7), "noise of sigma 5": rate(300, 2)},
        "spoilt": {"mirrored tiles": rate(300, 211), "inverted colours": rate(300, 300)},
        "strangers": {
            "photos": {
                **rate(7, 6),
                "lowest_rate_of_folds": 0.71429,
                "by_statistics_alone": 0.85714,
                "wrong": [missed],
            },
            "aria2021": {**rate(500, 499), "lowest_rate_of_folds": 0.996, "by_statistics_alone": 1.0, "wrong": []},
        },
        "drawn_like_its_own": rate(80, 1),
    }
