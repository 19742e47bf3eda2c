"""Texts about models, scores and labels that several tabs share. No layout, no Gradio components."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from .. import external_result
from ..corruptions import KINDS, Corruption, Kind
from ..dataset_info import DatasetInfo
from ..model_folder import PRECISIONS, ModelFolder
from ..tables import read_table

# Explanations of the page's terms.
MEANINGS: dict[str, str] = read_table(Path(__file__).with_name("glossary.toml"))
NOISE = "gaussian_noise"  # the corruption that the page opens with
_FAMILY_NAMES = {"mobilenet": "MobileNet", "resnet": "ResNet", "efficientnet": "EfficientNet"}


def label_text(folder: ModelFolder, label: str) -> str:
    """A label with its meaning: "ALL · leukemic B-lymphoblast"."""
    meaning = folder.dataset.meanings.get(label)
    return f"{label} · {meaning}" if meaning else label


def amount(change: Corruption) -> str:
    """A corruption with its level: "noise 30", "blur 2 px", "stain hue -20°"."""
    kind = KINDS[change.kind]
    space = " " if kind.unit in ("px", "%") else ""
    return f"{lower_title(kind)} {change.level:g}{space}{kind.unit}"


def lower_title(kind: Kind) -> str:
    """The title of a corruption within a sentence."""
    return kind.title if kind.title.startswith("JPEG") else kind.title.lower()


def unit_text(kind: Kind) -> str:
    """The unit of a corruption's level, as it stands behind a title: " (px)"."""
    return f" ({kind.unit})" if kind.unit else " (sigma)" if kind.seeded else ""


def model_choice(folder: ModelFolder) -> str:
    """A model in the picker: "Single cell · MobileNet · 12.8 MB", "Smear field · 4 classes · 8.9 MB", or "Published
    system · MobileNet_M · shortened training"."""
    parts = [folder.dataset.input_kind or folder.model_id]
    if published := folder.metrics.get("published"):
        name, more, _ = str(published["title"]).partition(",")  # what follows stands in the note below
        title = f"Published system · {name}{')' if more else ''}"
        return f"{title} · shortened training" if published["shortened"] else title
    if len(folder.label_names) > 2:
        parts.append(f"{len(folder.label_names)} classes")
    else:
        architecture = str(folder.config.get("architecture", "unknown network"))
        family = next((name for start, name in _FAMILY_NAMES.items() if architecture.startswith(start)), architecture)
        parts.append("small" if "small" in architecture else family)
    if (size := megabytes(folder)) is not None:
        parts.append(f"{size:.1f} MB")
    return " · ".join(parts)


def megabytes(folder: ModelFolder) -> float | None:
    """The size of the file that is served, in 10**6 bytes; None for a folder without an ONNX file."""
    weights = folder.path / PRECISIONS["fp32"]
    return weights.stat().st_size / 1e6 if weights.is_file() else None


def facts(folder: ModelFolder) -> str:
    """HTML: the model's score and its evidence, external validation, input, time and origin."""
    info = folder.dataset
    rows = [("Score", f"{_score(folder, info)}. {_external(folder)}"), ("Input", escape(info.input_description))]
    if time := folder.metrics.get("latency_ms"):
        rows.append(("Time", f"{time['fp32']:.1f} ms per image on {escape(str(time['threads']))} cores"))
    rows.append(("Model", escape(folder.model_id)))
    if published := folder.metrics.get("published"):
        rows.append(("Published system", escape(published_note(published))))
    if folder.revision:
        rows.append(("Source", f"{term('Hub')}, revision {escape(folder.revision[:7])}"))
    items = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in rows)
    return f'<dl class="facts">{items}</dl>'


def published_note(published: Mapping[str, Any]) -> str:
    """What a published system on the page is, from its metrics.json, in sentences."""
    text = f"{published['title']}, retrained for comparison: neither a model of this project nor the authors' weights."
    text += f" First weights: {published['first_weights']}."
    if published["shortened"]:
        text += f" Shortened training: {published['steps']} optimizer steps at {published['image_size']} px."
    elif published.get("full_length"):
        text += f" Full length: {published['steps']} optimizer steps at {published['image_size']} px;"
        text += " its group-disjoint scores are of shorter trainings."
    return f"{text} Changed from the paper's recipe: {published['changes']}."


def _score(folder: ModelFolder, info: DatasetInfo) -> str:
    name, score = main_score(folder.metrics)
    if not score:
        return "not measured, so its predictions mean nothing"
    interval = f" (95 % interval {score['low']:.2f} to {score['high']:.2f})" if "low" in score else ""
    protocol = str(folder.metrics["headline"].get("protocol", ""))
    evidence = f"on {escape(info.unseen)}" if protocol.startswith("group") else f"{term('image-level')}: too optimistic"
    measured = (folder.metrics.get("protocols") or [{}])[0]
    if len(measured.get("folds", ())) < measured.get("of_folds", 0):
        evidence += f", in {len(measured['folds'])} of {measured['of_folds']} folds: <strong>not comparable with "
        evidence += "scores of all folds</strong>"
    return f"<strong>{term(name)} {score['value']:.2f}</strong>{interval} {evidence}"


def _external(folder: ModelFolder) -> str:
    caveat = external_result.caveat(folder.metrics)
    sentence = f"<strong>{escape(external_result.sentence(folder.metrics))}</strong>"
    return f"{sentence} {term('Caveat', caveat)}" if caveat else sentence


def headline_of(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a protocol without noise, those by donor among them."""
    clean = protocol["by_sigma"][0]
    return {**clean, **clean.get("donors", {})}


def main_score(metrics: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and value of the score that represents a model: by donor if there are donors, else the weighted F1."""
    headline = metrics.get("headline") or {}
    if by_donor := headline.get("auroc_per_donor"):
        return "AUROC per donor", by_donor
    return "weighted F1", headline.get("weighted_f1") or {}


def term(word: str, meaning: str = "") -> str:
    """HTML: a word whose explanation opens on hover, on keyboard focus and on a tap.

    Args:
        word: as it is displayed.
        meaning: by default that of MEANINGS.
    """
    meaning = escape(meaning or MEANINGS[word])
    return (
        f'<span class="term" tabindex="0" role="note" aria-label="{escape(word)}: {meaning}" '
        f'data-meaning="{meaning}">{escape(word)}</span>'
    )
