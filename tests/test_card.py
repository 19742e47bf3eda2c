"""Model cards: every number measured, every entry with its protocol, every line on them runs."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_models import make_model_folder
from helpers_trust import gate_measured, trust_record
from huggingface_hub import ModelCard
from PIL import Image

from blastlens import Classifier
from blastlens.corruptions import KINDS
from blastlens.errors import BlastlensError
from blastlens.metrics import constant_weighted_f1
from blastlens.published_systems import Comparison
from blastlens.synthetic_images import draw_cell, draw_field, drawn_dataset
from train import baselines, card, pipeline_evaluation
from train.card import dataset_info, facts, figures, metadata, numbers, page
from train.card.facts import Facts

ROOT = Path(__file__).parents[1]
CELLS, FIELDS, SMALL = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021", "mobilenetv4_small_035-cnmc2019"
BUNDLED = (CELLS, FIELDS, SMALL)
STARTS = {CELLS: "google/mobilenet_v1_1.0_224", FIELDS: "google/mobilenet_v2_1.0_224", SMALL: None}
JSON = ("config.json", "preprocessor_config.json", "metrics.json", "gate.json")
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]|\d)")


def copied(model: str, tmp_path: Path, change: Callable[[dict[str, Any]], Any] = lambda metrics: None) -> Path:
    """What a card is rendered from, in a folder of its own, with metrics.json changed."""
    folder = tmp_path / model
    folder.mkdir()
    for name in JSON:
        if (ROOT / "models" / model / name).exists():
            shutil.copy(ROOT / "models" / model / name, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def trusted(metrics: dict[str, Any]) -> None:
    """Give metrics.json a made-up record of every trust figure."""
    metrics |= trust_record(metrics["label_names"])


def text_of(folder: Path, repo_id: str | None = None) -> str:
    return card.render(folder, repo_id)["README.md"].decode()


def body(text: str) -> str:
    return ModelCard(text).text


def blocks(text: str, language: str) -> list[str]:
    return [code for name, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if name == language]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.M | re.S)
    assert found, f"no {heading}"
    return found[1]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int16)


# What is committed


@pytest.mark.parametrize("model", BUNDLED)
def test_the_committed_card_is_what_is_rendered_now(model):
    folder = ROOT / "models" / model
    files = card.render(folder)
    assert (folder / "README.md").read_bytes() == files.pop("README.md")
    measured = json.loads((folder / "metrics.json").read_text())
    spoiled = {"figures/robustness.png"} if "robustness" in measured else set()
    assert set(files) == {"figures/noise.png", "figures/calibration.png"} | spoiled
    for name, drawn in files.items():
        committed, now = pixels((folder / name).read_bytes()), pixels(drawn)
        assert committed.shape == now.shape
        # Another version of the font renderer moves the edges of letters, and nothing else.
        assert np.abs(committed - now).mean() < 1
        assert np.mean(np.abs(committed - now).max(axis=2) > 64) < 0.01


@pytest.mark.parametrize("model", BUNDLED)
def test_a_card_is_rendered_the_same_every_time(model):
    assert card.render(ROOT / "models" / model) == card.render(ROOT / "models" / model)


@pytest.mark.parametrize("model", BUNDLED)
def test_the_first_screen_says_what_how_good_by_which_protocol_and_not_a_medical_device(model):
    text = (ROOT / "models" / model / "README.md").read_text()
    record = json.loads((ROOT / "models" / model / "metrics.json").read_text())
    first = body(text).partition("\n## ")[0]
    assert len(first.splitlines()) < 30
    for sigma in (0, 10, 20):
        (row,) = (row for row in record["protocols"][0]["by_sigma"] if row["sigma"] == sigma)
        assert card.interval(row["donors"]["auroc_per_donor"] if "donors" in row else row["weighted_f1"]) in first
    assert f"`{record['protocols'][0]['name']}`, group-disjoint" in first
    assert "Research demonstration, not a medical device." in first
    (lines,) = blocks(first, "python")
    assert len([line for line in lines.splitlines() if line]) == 3
    assert f'model="models/{model}"' in lines


def test_no_card_of_fields_without_the_word_that_colour_gives_the_classes_away():
    assert "cannot show that a model knows leukemia" in body(text_of(ROOT / "models" / FIELDS)).partition("\n## ")[0]


@pytest.mark.parametrize("model", BUNDLED)
def test_every_link_within_the_card_leads_somewhere(model):
    text = body((ROOT / "models" / model / "README.md").read_text())
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    places = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert links and set(links) <= places
    for image in re.findall(r"!\[[^\]]{80,}\]\(([^)]+)\)", text):  # with words for those who do not see it
        assert (ROOT / "models" / model / image).is_file()
    assert text.count("![") == 3 if "### Robustness" in text else 2


@pytest.mark.parametrize("model", BUNDLED)
def test_every_table_has_as_many_cells_in_each_row(model):
    for table in re.findall(r"(?:^\|.*\|\n)+", (ROOT / "models" / model / "README.md").read_text(), re.M):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table
        assert re.fullmatch(r"\|( --- \|)+", table.splitlines()[1])


# Front matter


@pytest.mark.parametrize("model", BUNDLED)
def test_the_front_matter_is_what_the_hub_reads(model):
    path = ROOT / "models" / model / "README.md"
    loaded = ModelCard.load(path)
    assert loaded.content == path.read_text()
    data = loaded.data
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("timm", "image-classification", model)
    assert (data.license, data.license_name) == ("other", "terms-of-the-training-data")
    assert data.license_link.startswith("https://doi.org/10.")
    assert data.base_model == STARTS[model]
    assert {"f1", "balanced_accuracy", "roc_auc"} <= set(data.metrics)
    assert data.datasets and "not-a-medical-device" in data.tags
    assert "widget" not in data


@pytest.mark.parametrize("model", BUNDLED)
def test_every_entry_of_the_model_index_is_measured_and_names_its_protocol(model):
    folder = ROOT / "models" / model
    read = ModelCard.load(folder / "README.md").data.eval_results
    assert read == metadata.eval_results(Facts.read(folder))  # nothing is lost on the way through YAML
    protocol = json.loads((folder / "metrics.json").read_text())["protocols"][0]
    rows, name_of_it = {row["sigma"]: row for row in protocol["by_sigma"]}, protocol["name"]
    keys = {name: key for key, (_, name, _) in metadata.METRICS.items()}
    seen = set()
    for entry in read:
        sigma = entry.dataset_args["noise_sigma"]
        key = keys[entry.metric_name.partition(",")[0]]
        seen.add((sigma, key))
        measured = rows[sigma][key]
        found = {"value": entry.metric_value, **{end: entry.metric_args[end] for end in ("low", "high")}}
        assert found == measured
        assert entry.metric_args["interval"] == "95 % bootstrap over groups"
        for words in (entry.metric_name, entry.dataset_name):
            assert words.endswith(f"{name_of_it} (group-disjoint), noise sigma {sigma:g}")
        assert (entry.dataset_config, entry.dataset_split) == (name_of_it, f"sigma {sigma:g}")
        assert (entry.dataset_args["protocol"], entry.dataset_args["level"]) == (name_of_it, "group-disjoint")
    expected = {"weighted_f1", "macro_f1", "accuracy", "balanced_accuracy", "auroc", "ece"}
    expected |= {"sensitivity", "specificity"} if model != FIELDS else set()
    assert seen == {(sigma, key) for sigma in (0, 10, 20) for key in expected}


@pytest.mark.parametrize(
    ("recorded", "hub_name"),
    [
        ("mobilenetv1_100.in1k.safetensors", "google/mobilenet_v1_1.0_224"),
        ("somebody/network", "somebody/network"),
        ("timm/mobilenetv1_100 from the Hub", "timm/mobilenetv1_100"),
        ("random", None),
        ("found-on-a-disk.safetensors", None),
    ],
)
def test_the_base_model_is_what_training_started_from(recorded, hub_name, tmp_path):
    folder = copied(CELLS, tmp_path, lambda metrics: metrics["training"].update(initial_weights=recorded))
    text = text_of(folder)
    assert ModelCard(text).data.base_model == hub_name
    assert f"recorded as `{recorded}`" in text
    file_of_another_maker = recorded.endswith(".in1k.safetensors")
    assert ("came from TensorFlow, not from there" in text) == file_of_another_maker
    if recorded.startswith("found"):
        assert "of origin and terms unknown" in text


def test_who_taught_a_model_is_told_with_its_first_weights():
    text = text_of(ROOT / "models" / SMALL)
    assert "| taught by | the answers of `mobilenet_m-cnmc2019`" in text
    assert "taught by the answers of `mobilenet_m-cnmc2019`, so that the terms" in text
    assert "taught by" not in text_of(ROOT / "models" / CELLS)


# No number but measured ones


TRUST = ("robustness", "calibration", "probes", "patients")
FAR = 50  # by how much a changed score differs, so that it cannot be mistaken for another score


def changed(value: Any, key: str = "") -> Any:
    """Every measured number a much larger one; what a number is measured at, such as sigma, stays."""
    if isinstance(value, dict):
        return {name: changed(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return value if key in ("sigmas", "seeds") else [changed(one, key) for one in value]
    if isinstance(value, bool) or key in ("sigma", "level", "severity", "schema", "folds", "input_px"):
        return value
    if key == "of_folds" and isinstance(value, int):  # a number of folds; as a list, their thresholds
        return value
    if isinstance(value, int):
        return value + FAR * 1_000_000 * (2 if key == "images_published" else 1)  # so that what is lacking changes too
    return value + FAR if isinstance(value, float) else value


def measured_int8(difference: float) -> dict[str, Any]:
    """What int8 costs, as it was measured for fields, but for the difference."""
    found = json.loads((ROOT / "models" / FIELDS / "metrics.json").read_text())["int8"]
    return found | {"difference": found["difference"] | {"value": difference}}


def without_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change everything that was measured, in the folder and in the comparison of systems."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("external", None)  # shares that could not be any larger; they have a test of their own
    measured = ("protocols", "int8", "latency_ms", "size_bytes", "check")
    for key in (key for key in (*measured, *TRUST) if metrics.get(key)):
        metrics[key] = changed(metrics[key])
    (fitted,) = {"temperature", "scaling"} & set(metrics["training"])
    metrics["training"][fitted] = changed(metrics["training"][fitted])
    metrics["training"]["dataset"]["images"] = 11
    (folder / "metrics.json").write_text(json.dumps(metrics))
    gate = json.loads((folder / "gate.json").read_text())
    (folder / "gate.json").write_text(json.dumps(gate | {"measured": changed(gate["measured"])}))
    record = json.loads((ROOT / "results/comparison.json").read_text())
    record |= {key: changed(record[key]) for key in ("datasets", "systems")}
    comparison = Comparison.from_dict(record)
    monkeypatch.setattr(Comparison, "load", classmethod(lambda cls: comparison))
    for path in (ROOT / "results").glob("baselines_*.json"):
        record = json.loads(path.read_text())
        record |= {key: changed(record[key]) for key in ("scores", "differences", "also") if key in record}
        (folder / path.name).write_text(json.dumps(record))
    monkeypatch.setattr(facts, "RESULTS", folder)
    against = Counter({"better": FAR * 1_000_000, "no difference shown": FAR * 1_000_000})
    monkeypatch.setattr(facts.Facts, "against", against)
    for name in ("noise", "calibration", "robustness"):  # such scores lie outside of every axis
        monkeypatch.setattr(figures, name, lambda *arguments: b"")


@pytest.mark.parametrize("record", [lambda metrics: None, trusted], ids=["as measured", "with every trust figure"])
@pytest.mark.parametrize("model", BUNDLED)
def test_every_number_on_the_card_comes_from_what_was_measured(model, record, tmp_path, monkeypatch):
    folder = copied(model, tmp_path, record)
    without_measured(folder, monkeypatch)
    text = text_of(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    # What is not measured here: the recipe, its noise levels, versions, names, and what others claim.
    stays = json.dumps(metrics["training"]) + (ROOT / "CITATION.cff").read_text()
    stays += str(dataset_info._STARTS) + str(dataset_info.RECIPE_REMARKS)
    stays += "".join(f" {system.claimed_in_words} " for system in Comparison.load().systems)
    stays += "".join(f" {severity:g} " for kind in KINDS.values() for severity in kind.severities)
    stays += str(dataset_info._DATASETS) + "".join(f" {sigma:.1f} " for sigma in metadata.SIGMAS)
    # What always giving one answer reaches follows from the numbers of images.
    supports = [row["support"] for row in metrics["protocols"][0]["by_sigma"][0]["per_class"].values()]
    stays += f" {constant_weighted_f1(max(supports) / sum(supports)):.3f} "
    shown = [number for number in DECIMAL.findall(text) if number not in DECIMAL.findall(stays)]
    assert len(shown) > 300
    assert [number for number in shown if float(number) < FAR - 1] == []
    counts = [int(number.replace(",", "")) for number in re.findall(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?!\w)", text)]
    assert len(counts) > 30 and min(counts) >= FAR * 1_000_000


def test_no_figure_is_typed_into_the_template():
    prose = page.TEMPLATE.read_text()
    assert not re.findall(r"(?<!%)(?<!\d)\d+\.\d+", prose)
    # The scale of pixels, and how they become fractions.
    assert set(re.findall(r"\b\d{3,}\b", prose)) <= {"255"}
    # The share that intervals hold, and that of images whose probability hardly moves.
    assert set(re.findall(r"(\d+) %(?!\})", prose)) == {"50", "95", "99"}
    for data in dataset_info._DATASETS.values():
        said = (data.question, data.give, data.preparation, data.setting, data.handling, data.caution, *data.limits)
        said = " ".join(said)
        assert not DECIMAL.findall(said) and "%" not in said
        assert set(re.findall(r"\d+", said)) <= {"450", "320", "224"}  # sides of images, in px
        assert set(re.findall(r"\d+", data.lacking)) <= {"0", "1", "2"}  # names of folds
    assert not re.findall(r"\d", " ".join((*dataset_info.RECIPE_LIMITS.values(), *dataset_info.RECIPE_NAMES.values())))


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("## How good it is", lambda m: m["protocols"][0]["by_sigma"][3]["ece"].update(value=0.0777)),
        ("### By class", lambda m: m["protocols"][0]["by_sigma"][0]["per_class"]["HEM"]["recall"].update(low=0.1234)),
        ("### By class", lambda m: m["protocols"][0]["by_sigma"][0].update(confusion_matrix=[[1, 2], [3, 4]])),
        ("### By group", lambda m: m["protocols"][0]["per_group"][5].update(accuracy=0.9876)),
        ("### Calibration", lambda m: m["protocols"][0]["reliability"][0].update(count=12345)),
        ("### Calibration", lambda m: m["protocols"][0]["classwise_ece"].update(value=0.0987)),
        ("### Calibration", lambda m: m["protocols"][0]["reliability_by_answer"]["HEM"][4].update(accuracy=0.4321)),
        ("### int8, size and speed", lambda m: m.update(int8=measured_int8(-0.9))),
        ("### int8, size and speed", lambda m: m["latency_ms"].update(int8=77.7)),
        ("### Check your copy", lambda m: m["check"].update(right=3)),
        ("## How it was made", lambda m: m["training"]["versions"].update(torch="9.87.6")),
    ],
)
def test_a_changed_metric_changes_its_section_only(where, change, tmp_path):
    before, after = text_of(ROOT / "models" / CELLS), text_of(copied(CELLS, tmp_path, change))
    assert section(before, where) != section(after, where)
    assert before.replace(section(before, where), "") == after.replace(section(after, where), "")


def test_changed_scores_change_the_figures(tmp_path):
    def change(metrics):
        metrics["protocols"][0]["by_sigma"][4]["weighted_f1"]["value"] = 0.3
        metrics["protocols"][0]["reliability"][2]["accuracy"] = 0.1

    before, after = card.render(ROOT / "models" / CELLS), card.render(copied(CELLS, tmp_path, change))
    for name in ("figures/noise.png", "figures/calibration.png"):
        assert np.abs(pixels(before[name]) - pixels(after[name])).max() > 100


def test_figures_are_wide_enough_for_a_desk_and_small_enough_for_a_phone():
    pictures = {name: content for name, content in card.render(ROOT / "models" / FIELDS).items() if "png" in name}
    for name, drawn in pictures.items():
        many = "robustness" in name  # one small picture for each kind of flaw, below each other
        assert len(drawn) < (300_000 if many else 100_000)
        width, height = Image.open(io.BytesIO(drawn)).size
        assert width == 960 and height < (2 * width if many else width)


# What it says of noise


def rows(*lows: float | None) -> list[dict[str, Any]]:
    return [{"sigma": float(s), "weighted_f1": {"value": low, "low": low, "high": low}} for s, low in enumerate(lows)]


@pytest.mark.parametrize(
    ("lows", "sigma"),
    [
        ((0.9, 0.8, 0.7), None),
        ((0.9, 0.6, 0.5), 1),
        ((0.9, 0.5, 0.7, 0.4), 3),  # a dip that is made good does not count
        ((0.6, 0.6, 0.6), 0),
        ((0.9, None), 1),  # undefined: nothing is shown to be better
    ],
)
def test_it_says_from_which_noise_on_the_model_is_no_longer_clearly_better(lows, sigma):
    assert numbers.lost_from(rows(*lows), 0.6) == sigma


def test_a_score_that_is_undefined_leaves_a_gap_in_the_curve():
    whole = figures.noise(rows(0.9, 0.8, 0.7), "model", {"floor": 0.2})
    gap = figures.noise(rows(0.9, None, 0.7), "model", {"floor": 0.2})
    blue = [np.sum(np.abs(pixels(png) - [0, 114, 178]).max(axis=2) < 20) for png in (whole, gap)]
    assert blue[0] > blue[1] > 0


# What it says of probabilities, and of other ways to answer


def test_where_errors_of_two_answers_cancel_out_the_card_says_so_at_once(tmp_path):
    def change(metrics):
        one = {"low": 0.6, "high": 0.7, "count": 100, "confidence": 0.65, "accuracy": 0.9}
        top = {"low": 0.9, "high": 1.0, "count": 10, "confidence": 0.95, "accuracy": 0.95}
        metrics["protocols"][0]["reliability_by_answer"] = {"ALL": [one, top], "HEM": [one | {"accuracy": 0.4}]}

    text = text_of(copied(CELLS, tmp_path, change))
    assert "calibrated probability" not in text
    first = body(text).partition("\n## ")[0]
    overstated = "answers *HEM* stated below 90 % (65.0 % on average) were right in 40.0 % of 100 answers"
    understated = "answers *ALL* stated below 90 % (65.0 % on average) were right in 90.0 % of 100 answers"
    assert f"{overstated}; {understated}" in first
    table = section(text, "### Calibration")
    assert "| ALL | 90.0 % of 100 | 95.0 % of 10 |" in table and "| HEM | 40.0 % of 100 | - |" in table


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.2, "better"),
        (-0.2, -0.01, "worse"),
        (-0.1, 0.1, "no difference shown"),
        (0.0, 0.1, "no difference shown"),
    ],
)
def test_a_difference_is_shown_only_where_its_interval_holds_no_zero(low, high, words):
    assert numbers.verdict({"value": (low + high) / 2, "low": low, "high": high}) == words


def test_an_undefined_difference_has_no_verdict():
    assert numbers.verdict({"value": None, "low": None, "high": None}) == "undefined"


@pytest.mark.parametrize("model", [FIELDS, SMALL])
def test_the_model_is_compared_with_what_needs_no_network_image_by_image(model):
    text = (ROOT / "models" / model / "README.md").read_text()
    data = model.partition("-")[2]
    record = json.loads((ROOT / "results" / f"baselines_{data}.json").read_text())
    table, first = section(text, "### Without a network"), body(text).partition("\n## ")[0]
    differences = record["also"]["tiny_cnmc2019"] if model == SMALL else record["differences"]
    for name, rows in differences.items():
        for row in rows:
            cells = [f"{card.interval(row[key], sign='+')}, {numbers.verdict(row[key])}" for key in baselines.COMPARED]
            assert f"| {row['sigma']:g} | *{name} alone* | {' | '.join(cells)} |" in table
    bar = max(record["scores"], key=lambda name: record["scores"][name]["weighted_f1"]["value"])
    clean = differences[bar][0]["weighted_f1"]
    assert f"weighted F1 {card.interval(clean, sign='+')}, {numbers.verdict(clean)};" in first
    assert "clearly better" not in text


def test_the_comparison_with_listed_systems_is_that_of_the_pairs():
    pairs = (ROOT / "results/PAIRS.md").read_text()
    for model in (FIELDS,):  # the recipe of the comparison
        found = Facts.read(ROOT / "models" / model)
        (line,) = re.findall(rf"^\| {re.escape(found.system.title)} \|.*$", pairs, re.M)
        better, none, worse = (int(cell) for cell in line.split("|")[3:6])
        counted = [found.against[words] for words in ("better", "no difference shown", "worse")]
        assert counted == [better, none, worse]


# Other folders


def test_with_a_repository_every_line_to_copy_names_it():
    text = text_of(ROOT / "models" / CELLS, "somebody/cells")
    code = "\n".join(blocks(text, "python") + blocks(text, ""))
    assert "models/" not in code and code.count("somebody/cells") == 8
    assert code.count('revision="main"') == 4
    assert '"hf-hub:somebody/cells@main"' in code and "--model somebody/cells@main" in code
    assert "Model somebody/cells, recipe" in text
    assert "somebody/" not in text_of(ROOT / "models" / CELLS)


def test_a_folder_that_carries_code_says_so_and_is_not_called_a_timm_model(tmp_path):
    folder = copied(CELLS, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoModelForImageClassification": "modeling_blastlens.BlastlensForImageClassification"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    text = text_of(folder, "somebody/cells")
    data = ModelCard(text).data
    assert data.library_name == "transformers" and "custom_code" in data.tags
    assert "read it before you trust it" in text
    code = "\n".join(blocks(text, "python"))
    assert code.count("trust_remote_code=True") == code.count("pipeline(") == 2
    assert "timm.create_model" not in code and "onnxruntime" in code


def of_unknown_origin(metrics: dict[str, Any]) -> None:
    """Another data set with other labels, of which only what must be there was measured, and not all is defined."""
    metrics["label_names"] = ["round", "square"]
    metrics["training"]["dataset"]["name"] = "shapes"
    metrics["training"]["initial_weights"] = "found.safetensors"
    for key in ("int8", "latency_ms", "size_bytes", "check", "external", *TRUST):
        metrics.pop(key, None)
    (protocol,) = metrics["protocols"]
    for key in ("reliability", "reliability_by_answer", "classwise_ece"):
        del protocol[key]
    nothing = {"value": None, "low": None, "high": None}
    for row in protocol["by_sigma"]:
        row["per_class"] = dict(zip(metrics["label_names"], row["per_class"].values(), strict=True))
        row["auroc"] = nothing
    protocol["by_sigma"][0]["per_class"]["square"]["precision"] = nothing
    for group, label in zip(protocol["per_group"], metrics["label_names"] * 40, strict=False):
        group["label"] = label


def test_of_an_unknown_data_set_the_card_says_no_more_than_is_known(tmp_path):
    folder = copied(CELLS, tmp_path, of_unknown_origin)
    (folder / "gate.json").unlink()
    files = card.render(folder)
    assert set(files) == {"README.md", "figures/noise.png"}
    text = files["README.md"].decode()
    data = ModelCard(text).data
    assert (data.datasets, data.license_name, data.license_link) == (["shapes"], "unknown", None)
    assert data.base_model is None
    assert not [entry for entry in data.eval_results if entry.metric_type == "roc_auc"]
    assert "Which of round, square does an image show?" in text and "not a medical device" in text
    for absent in (
        "C-NMC",
        "HEM",
        "Gupta",
        "### The leak",
        "### Without a network",
        "### Input check",
        "healthy donor",
    ):
        assert absent not in body(text)
    assert "these same people" not in text and "train.datasets prepare" not in text
    assert "| undefined |" in section(text, "### Noise") and "undefined" in section(text, "### By class")
    assert "nan" not in re.findall(r"\w+", text) and "None" not in re.sub(r"```.*?```", "", text, flags=re.S)


def test_a_protocol_by_image_is_never_shown_as_unseen_people(tmp_path):
    folder = copied(CELLS, tmp_path, lambda m: m["protocols"][0].update(name="image-80-10-10", level="image"))
    text = text_of(folder)
    first = body(text).partition("\n## ")[0]
    assert "never saw" not in first and "image-level" in first
    assert "so these figures say nothing about new people" in text
    assert all(entry.dataset_args["level"] == "image-level" for entry in ModelCard(text).data.eval_results)


def validated(metrics: dict[str, Any]) -> None:
    scores = {"specificity": {"value": 0.2345, "low": 0.1, "high": 0.4}, "worst_specificity": 0.0123}
    metrics["external"] = {
        "data": "elsewhere",
        "images": 4321,
        "subjects": 5,
        "healthy_donors": 7,
        "healthy_images": 321,
        "sha256": metrics["sha256"]["safetensors"],
        "metrics": scores | {"sensitivity": {"value": 0.9876}},
        "per_subject": [{"donor": "H9", "positive": False, "images": 46, "rate": 0.5}],
        "baseline": {"name": "cell area", "metrics": {"specificity": {"value": 0.6543}}},
        "caveat": "One subject is not external.",
    }


def test_the_external_validation_is_at_the_top_of_the_card_and_in_a_section_of_its_own(tmp_path):
    text = text_of(copied(CELLS, tmp_path, validated))
    told = "External validation: 77 % of 321 healthy cells from 7 new donors were classified as leukemic."
    assert told in body(text).partition("\n## ")[0].partition("| | weighted F1")[0]
    details = section(text, "### External validation")
    assert "4,321 images" in details and "One subject is not external." in details
    assert "| specificity | 0.234 (0.100 to 0.400) | 0.654 |" in details
    assert "| specificity on the worst healthy donor | 0.012 | unknown |" in details
    assert "| H9 | healthy | 46 | 50.0 % |" in details


def test_a_card_without_external_validation_says_so_at_its_top(tmp_path):
    text = text_of(copied(CELLS, tmp_path, lambda metrics: metrics.pop("external", None)))
    assert "**Not externally validated.**" in body(text).partition("\n## ")[0]
    assert "### External validation" not in text and "no external validation" in text


def test_the_card_states_the_prevalence_that_probabilities_assume(tmp_path):
    text = text_of(copied(CELLS, tmp_path, lambda metrics: metrics["calibration"].update(prevalence=0.1234)))
    assert "They assume that 12.3 % of the images are leukemic" in section(text, "## Limits")


def test_a_folder_that_was_not_measured_gets_no_card(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BlastlensError, match=r"no config\.json"):
        card.render(empty)
    folder = copied(CELLS, tmp_path)
    (folder / "metrics.json").unlink()
    with pytest.raises(BlastlensError, match=r"no metrics\.json; `python -m train\.evaluate`"):
        card.render(folder)
    (folder / "metrics.json").write_text("{")
    assert card.main([str(folder)]) == 2
    assert "is not valid JSON" in capsys.readouterr().err
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["protocols"].clear(),
        lambda m: m["protocols"][0]["by_sigma"][2].pop("ece"),
        lambda m: [m["training"].pop(name, None) for name in ("temperature", "scaling")],
        lambda m: m["protocols"][0].pop("per_group"),
    ],
)
def test_a_value_that_is_missing_is_named_and_nothing_is_made_up(change, tmp_path):
    folder = copied(CELLS, tmp_path, change)
    with pytest.raises(BlastlensError, match=r"cannot be rendered: .* lacks something"):
        card.render(folder)


def test_the_command_writes_the_card_into_the_folder(tmp_path):
    folder = copied(FIELDS, tmp_path)
    assert card.main([str(folder), "--repo-id", "somebody/fields"]) == 0
    assert (folder / "README.md").read_bytes() == card.render(folder, "somebody/fields")["README.md"]
    assert Image.open(folder / "figures/noise.png").format == "PNG"


# How far it can be trusted


@pytest.fixture
def undrawn(monkeypatch):
    """Cards without figures, which take most of the time."""
    for name in ("noise", "calibration", "robustness"):
        monkeypatch.setattr(figures, name, lambda *arguments: b"")


TRUST_SECTIONS = {
    "### Robustness": "robustness",
    "### Operating point": "calibration",
    "### Prediction sets": "calibration",
    "### Shortcut probes": "probes",
    "### Patients": "patients",
}


@pytest.mark.parametrize(("heading", "key"), TRUST_SECTIONS.items())
def test_each_trust_section_stands_where_it_was_measured_and_only_there(heading, key, tmp_path, undrawn):
    def without(metrics: dict[str, Any]) -> None:
        trusted(metrics)
        metrics[key] = None

    (tmp_path / "all").mkdir()
    assert f"\n{heading}\n" in text_of(copied(CELLS, tmp_path / "all", trusted))
    text = text_of(copied(CELLS, tmp_path, without))
    assert f"\n{heading}\n" not in text
    assert f"](#{heading.strip('# ').lower().replace(' ', '-')})" not in text


def test_robustness_lists_every_flaw_with_what_each_severity_takes_and_the_named_baseline(tmp_path):
    folder = copied(CELLS, tmp_path, trusted)
    record = json.loads((folder / "metrics.json").read_text())["robustness"]
    files = card.render(folder)
    shown = section(files["README.md"].decode(), "### Robustness")
    for kind in record["kinds"]:
        (row, detail) = (line for line in shown.splitlines() if line.startswith(f"| {kind['title']} |"))
        for severity in kind["severities"]:
            assert f"| {numbers.in_points(severity['lost'], -1)} |" in row
            assert f"{severity['level']:g}" in row
        assert row.count("±") == kind["both_ways"]
        assert card.interval(kind["ce"], 2) in row and kind["explanation"] in detail
    assert card.interval(record["summary"]["mce"]) in shown and "*cell area and colour*" in shown
    assert "about one point at sigma 17.3, and five not up to sigma 100, read off" in shown
    assert Image.open(io.BytesIO(files["figures/robustness.png"])).width == pixels(files["figures/noise.png"]).shape[1]


def test_a_failed_probe_and_sets_that_did_not_hold_stand_out(tmp_path, undrawn):
    def worse(metrics: dict[str, Any]) -> None:
        trusted(metrics)
        metrics["calibration"]["prediction_sets"]["holds"] = False

    text = text_of(copied(CELLS, tmp_path, worse))
    rows = section(text, "### Shortcut probes").splitlines()
    assert [row.split(" | ")[0] for row in rows if "**failed**" in row] == ["| Without colour", "| Only the outline"]
    assert "4 of 6 were passed" in section(text, "### Shortcut probes")
    assert "AUROC at most 0.752: 0.782 (0.752 to 0.812)" in section(text, "### Shortcut probes")
    assert "**A label fell short" in section(text, "### Prediction sets")
    assert "So no prediction set is given" in section(text, "### Prediction sets")


def test_what_could_not_be_computed_is_called_undefined(tmp_path):
    def gaps(metrics: dict[str, Any]) -> None:
        trusted(metrics)
        first = metrics["robustness"]["kinds"][0]["severities"][0]
        first |= {"auroc": None, "lost": None, "weighted_f1": {"value": None, "low": None, "high": None}}
        metrics["robustness"]["summary"] |= {"relative_mce": None, "relative_mce_kinds": 0}
        metrics["calibration"]["worst_group"] = None
        metrics["patients"]["patients"][0] |= {"low": None, "high": None}

    text = body(text_of(copied(CELLS, tmp_path, gaps)))
    assert "undefined" in section(text, "### Robustness")
    assert "Counting only the errors" not in text
    assert not re.search(r"\b(None|nan)\b", section(text, "## How good it is"))


def test_a_bias_for_each_class_is_told_with_the_temperature(tmp_path, undrawn):
    def scaled(metrics: dict[str, Any]) -> None:
        metrics["training"].pop("temperature", None)
        metrics["training"]["scaling"] = {"temperature": 1.2345, "bias": [0.321, -0.321]}

    text = text_of(copied(CELLS, tmp_path, scaled))
    assert "temperature 1.234 and a bias for each class (ALL +0.321, HEM -0.321)" in section(text, "## How it was made")
    assert "one temperature, and a bias for each class" in section(text, "## Limits")


def test_the_input_check_tells_what_it_lets_in_and_what_it_may_not_notice(tmp_path, undrawn):
    folder = copied(CELLS, tmp_path)
    gate = json.loads((folder / "gate.json").read_text())
    (folder / "gate.json").write_text(json.dumps(gate | {"measured": gate_measured(), "features": {"limit": 1.5}}))
    shown = section(text_of(folder), "### Input check")
    assert "the network's own features" in shown
    assert "photographs 6 of 7" in shown
    assert "a fifth darker (7 of 300)" in shown and "mirrored tiles (211 of 300)" in shown


@pytest.mark.parametrize("model", BUNDLED)
def test_tables_and_links_hold_with_every_trust_figure(model, tmp_path, undrawn):
    text = body(text_of(copied(model, tmp_path, trusted)))
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table
        assert re.fullmatch(r"\|( --- \|)+", table.splitlines()[1])
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    places = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= places
    assert ("### Patients" in text) == (model != FIELDS)


# The lines on it


@pytest.mark.slow
@pytest.mark.parametrize(("model", "image"), [(CELLS, "cell.bmp"), (FIELDS, "field.jpg")])
def test_every_line_to_copy_runs_and_answers_what_the_classifier_answers(model, image, tmp_path):
    (tmp_path / "models").symlink_to(ROOT / "models")
    (draw_cell("ALL", 3) if model == CELLS else draw_field("Early", 3)).save(tmp_path / image)
    text = (ROOT / "models" / model / "README.md").read_text()
    classifier = Classifier.from_pretrained(model)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def printed(command: list[str]) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, *rest = blocks(text, "python")
    assert len(rest) == 4
    compile(first, "card", "exec")
    for code in rest:
        answer = ast.literal_eval(printed([sys.executable, "-c", code]).splitlines()[0])
        if isinstance(answer, list):
            answer = {one["label"]: one["score"] for one in answer}
        sigma = answer.get("sigma", 0)
        expected = classifier.predict(tmp_path / image, sigma=sigma).probabilities
        # A published frame is shrunk as a whole by others, and by us only where it is kept.
        assert answer.get("probabilities", answer) == pytest.approx(expected, abs=1e-3), code
    (line,) = (one for one in blocks(text, "") if "blastlens classify" in one)
    (answer,) = json.loads(printed([sys.executable, *line.split()[1:]]))
    expected = classifier.predict(tmp_path / image, sigma=10).probabilities
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("model", "data"), [(CELLS, "cnmc2019"), (FIELDS, "aria2021/Original")])
def test_the_figure_that_checks_a_copy_is_measured_again_through_a_stock_pipeline(model, data, data_dir):
    recorded = json.loads((ROOT / "models" / model / "metrics.json").read_text())["check"]
    scores = pipeline_evaluation.check(f"models/{model}", data_dir / data)
    assert (scores["images"], scores["right"]) == (recorded["images"], recorded["right"])
    assert len(recorded["sample"]) == recorded["images"] == 100
    assert scores["accuracy"] == pytest.approx(recorded["accuracy"]) == recorded["right"] / recorded["images"]
    text = (ROOT / "models" / model / "README.md").read_text()
    shown = section(text, "### Check your copy")
    assert f"{scores['right']} of {scores['images']} answers are right" in shown
    assert "fitted on these images" in shown and "no evidence" in shown


@pytest.mark.data
def test_the_sample_of_the_check_is_spread_over_the_data_set(data_dir):
    sample = json.loads((ROOT / "models" / CELLS / "metrics.json").read_text())["check"]["sample"]
    assert sample == pipeline_evaluation.sample_of(data_dir / "cnmc2019", 100)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, Path]:
    """A throw-away model folder and a small data set, with the check recorded by the command line."""
    root = tmp_path_factory.mktemp("check")
    data = drawn_dataset(root / "data", ("ALL", "HEM"), per_group=2, groups_per_label=3, seed=5)
    folder = make_model_folder(root / "tiny")
    record = json.loads((folder / "metrics.json").read_text()) | {"label_names": ["ALL", "HEM"]}
    (folder / "metrics.json").write_text(json.dumps(record))
    assert pipeline_evaluation.main([str(folder), "--data", str(data), "--limit", "6", "--record"]) == 0
    return folder, data


@pytest.mark.slow
def test_a_recorded_check_is_what_the_classifier_answers_on_its_sample(measured):
    folder, data = measured
    check = json.loads((folder / "metrics.json").read_text())["check"]
    found = Classifier.from_pretrained(folder).predict([data / file for file in check["sample"]])
    right = sum(one.label == label for one, label in zip(found, check["sample"].values(), strict=True))
    assert (check["images"], check["right"], check["accuracy"]) == (6, right, pytest.approx(right / 6))
    assert "no evidence" in check["what"]


@pytest.mark.slow
def test_a_copy_that_answers_otherwise_fails_its_check(measured, tmp_path, capsys):
    folder, data = measured
    assert pipeline_evaluation.main([str(folder), "--data", str(data), "--check"]) == 0
    other = shutil.copytree(folder, tmp_path / "other")
    record = json.loads((other / "metrics.json").read_text())
    record["check"]["right"] += 1
    (other / "metrics.json").write_text(json.dumps(record))
    assert pipeline_evaluation.main([str(other), "--data", str(data), "--check"]) == 1
    assert f"where {record['check']['right']} are recorded" in capsys.readouterr().err


@pytest.mark.slow
def test_a_check_without_its_images_or_its_record_says_what_is_missing(measured, tmp_path, capsys):
    folder, data = measured
    assert pipeline_evaluation.main([str(folder), "--data", str(tmp_path), "--check"]) == 2
    assert "lacks 6 of the sample's 6 images" in capsys.readouterr().err
    assert pipeline_evaluation.main([str(make_model_folder(tmp_path / "new")), "--data", str(data), "--check"]) == 2
    assert "records no sample" in capsys.readouterr().err
