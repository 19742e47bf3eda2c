"""External validation in words: how a model does on subjects outside its training set.

`python -m train.evaluate MODEL --external DIR` writes the block "external" of metrics.json. Only this module turns it
into the sentence that every prediction, the page, the API, the card and the README carry.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import BlastlensError

NOT_VALIDATED = "Not externally validated."
_LEAD = "External validation:"


def sentence(metrics: Mapping[str, Any]) -> str:
    """One sentence: the main result of the external validation in a metrics.json, or that there was none.

    Raises:
        BlastlensError: the block is malformed, or belongs to other weights.
    """
    block = metrics.get("external")
    if block is None:
        return NOT_VALIDATED
    try:
        _check(block, metrics)
        return f"{_LEAD} {_result(block, metrics)}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BlastlensError(
            f"external in metrics.json cannot be read ({error!r}); write it with "
            "`python -m train.evaluate MODEL --external DIR`."
        ) from None


def of_image(warnings: Iterable[str]) -> tuple[str, ...]:
    """The warnings about the image, without the sentence about the model that comes first in each prediction."""
    return tuple(text for text in warnings if text != NOT_VALIDATED and not text.startswith(_LEAD))


def caveat(metrics: Mapping[str, Any]) -> str:
    """What to know about the external validation; "" where nothing is recorded."""
    return (metrics.get("external") or {}).get("caveat") or ""


def value(score: Any) -> float:
    """A score of the block, 0 to 1, which is a number or has one as its "value"."""
    number = score["value"] if isinstance(score, Mapping) else score
    if isinstance(number, bool) or not 0 <= number <= 1:
        raise ValueError(f"{number!r} is not between 0 and 1")
    return float(number)


def _check(block: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    if block["sha256"] != (metrics.get("sha256") or {}).get("safetensors", block["sha256"]):
        raise ValueError("its sha256 is that of other weights")
    for key in ("sha256", "caveat", "unit", "data"):
        if not isinstance(block.get(key, ""), str):
            raise TypeError(f"{key} is not a text")
    for scores in (block["metrics"], *([block["baseline"]["metrics"]] if "baseline" in block else [])):
        for score in scores.values():
            value(score)
    for one in block.get("per_subject", ()):
        value(one["rate"])
        if not (isinstance(one["donor"], str) and isinstance(one["positive"], bool) and _count(one["images"])):
            raise TypeError(f"{one!r} is no subject")


def _result(block: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    if "healthy_images" in block:
        cells, donors = _count(block["healthy_images"]), _count(block["healthy_donors"])
        wrong = 1 - value(block["metrics"]["specificity"])
        return f"{100 * wrong:.0f} % of {cells:,} healthy cells from {donors:,} new donors were classified as leukemic."
    headline = metrics.get("headline") or {}
    known = str(headline.get("protocol")).startswith("group") and "macro_f1" in headline
    validated = f" (cross-validation {value(headline['macro_f1']):.3f})" if known else ""
    macro_f1, images = value(block["metrics"]["macro_f1"]), _count(block["images"])
    return f"macro F1 {macro_f1:.3f} on {images:,} images of new {block.get('unit', 'groups')}{validated}."


def _count(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{number!r} is not a count")
    return number
