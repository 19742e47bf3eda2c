"""Model cards: rendered from records only, valid for the Hub, and code examples that run."""

import ast
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_models import make_model_folder
from helpers_synthetic import drawn_dataset
from huggingface_hub import ModelCard
from PIL import Image

from blastlens import Classifier, cli
from blastlens.dataset_info import dataset_info
from blastlens.errors import BlastlensError
from blastlens.synthetic_images import synthetic_image
from train import card, pipeline_evaluation
from train.report import figures

ROOT = Path(__file__).parents[1]
CELLS, FIELDS, SMALL = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021", "mobilenetv4_small_035-cnmc2019"
BUNDLED = (CELLS, FIELDS, SMALL)
JSON = ("config.json", "preprocessor_config.json", "metrics.json", "gate.json")
OPTIONAL = ("robustness", "calibration", "probes", "patients")


@pytest.fixture
def undrawn(monkeypatch):
    """Cards without figures, which take most of the time."""
    monkeypatch.setattr(figures, "png", lambda figure: b"")
    for name in ("card_noise", "card_calibration"):
        monkeypatch.setattr(figures, name, lambda *arguments: None)


def copied(model: str, tmp_path: Path, change: Callable[[dict[str, Any]], Any] = lambda metrics: None) -> Path:
    """What a card is rendered from, in a folder of its own, with metrics.json changed."""
    folder = tmp_path / model
    folder.mkdir(parents=True)
    for name in JSON:
        if (ROOT / "models" / model / name).exists():
            shutil.copy(ROOT / "models" / model / name, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def text_of(folder: Path, repo_id: str | None = None) -> str:
    return card.render(folder, repo_id)["README.md"].decode()


def blocks(text: str, language: str) -> list[str]:
    return [code for name, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if name == language]


def section(text: str, heading: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.M | re.S)
    assert found, f"no {heading}"
    return found[1]


def top(text: str) -> str:
    """The text above the first section."""
    return ModelCard(text).text.partition("\n## ")[0]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int16)


def assert_sound(text: str) -> None:
    """Tables have as many cells in each row, and links within the card have a target."""
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table
        assert re.fullmatch(r"\|( --- \|)+", table.splitlines()[1]), table
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    places = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= places


@pytest.mark.parametrize("model", BUNDLED)
def test_the_committed_card_is_what_is_rendered_now(model):
    folder = ROOT / "models" / model
    files = card.render(folder)
    text = (folder / "README.md").read_bytes()
    assert text == files.pop("README.md"), "run python -m train.report"
    assert_sound(text.decode())
    assert "group-disjoint" in top(text.decode()) and "not a medical device" in top(text.decode())
    assert set(files) == {f"figures/{name}.png" for name in ("noise", "calibration")}
    for name, drawn in files.items():
        committed, now = pixels((folder / name).read_bytes()), pixels(drawn)
        assert committed.shape == now.shape and now.shape[1] == 960
        # Another version of the font renderer moves the edges of letters, and nothing else.
        assert np.abs(committed - now).mean() < 1
        assert np.mean(np.abs(committed - now).max(axis=2) > 64) < 0.01


@pytest.mark.parametrize("model", BUNDLED)
def test_the_front_matter_is_what_the_hub_reads(model):
    folder = ROOT / "models" / model
    loaded = ModelCard.load(folder / "README.md")
    data = loaded.data
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("timm", "image-classification", model)
    assert (data.license, data.license_name) == ("other", "terms-of-the-training-data")
    starts = {CELLS: "google/mobilenet_v1_1.0_224", FIELDS: "google/mobilenet_v2_1.0_224", SMALL: None}
    assert data.base_model == starts[model]
    metrics = json.loads((folder / "metrics.json").read_text())
    info = dataset_info(metrics["label_names"])
    assert data.eval_results == card.eval_results(metrics, info)  # nothing is lost on the way through YAML
    protocol = metrics["protocols"][0]
    rows = {row["sigma"]: row for row in protocol["by_sigma"]}
    keys = {name: key for key, (_, name, _) in card.METRICS.items()}
    for entry in data.eval_results:
        measured = rows[entry.dataset_args["noise_sigma"]][keys[entry.metric_name.partition(",")[0]]]
        found = {"value": entry.metric_value, **{end: entry.metric_args[end] for end in ("low", "high")}}
        assert found == measured
        assert (entry.dataset_config, entry.dataset_args["level"]) == (protocol["name"], "group-disjoint")
    assert len(data.eval_results) == 3 * (6 if model == FIELDS else 8)


@pytest.mark.parametrize(
    ("recorded", "hub_name"),
    [
        ("mobilenetv1_100.in1k.safetensors", "google/mobilenet_v1_1.0_224"),
        ("timm/mobilenetv1_100 from the Hub", "timm/mobilenetv1_100"),
        ("random", None),
        ("found-on-a-disk.safetensors", None),
    ],
)
def test_the_base_model_is_what_training_started_from(recorded, hub_name, tmp_path, undrawn):
    folder = copied(CELLS, tmp_path, lambda metrics: metrics["training"].update(initial_weights=recorded))
    text = text_of(folder)
    assert ModelCard(text).data.base_model == hub_name
    assert f"recorded as `{recorded}`" in text
    assert ("of origin and terms unknown" in text) == recorded.startswith("found")


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("### Noise", lambda m: m["protocols"][0]["by_sigma"][3]["ece"].update(value=0.0777)),
        ("## Evaluation", lambda m: m["protocols"][0]["by_sigma"][0]["per_class"]["HEM"]["recall"].update(low=0.1234)),
        ("### Robustness", lambda m: m["robustness"]["kinds"][0]["ce"].update(value=7.77)),
        ("### Shortcut probes", lambda m: m["probes"]["rows"][0].update(passed=not m["probes"]["rows"][0]["passed"])),
        ("## Training", lambda m: m["training"]["versions"].update(torch="9.87.6")),
    ],
)
def test_a_changed_record_changes_its_section_only(where, change, tmp_path, undrawn):
    before, after = text_of(copied(CELLS, tmp_path / "as it is")), text_of(copied(CELLS, tmp_path, change))
    assert section(before, where) != section(after, where)
    assert before.replace(section(before, where), "") == after.replace(section(after, where), "")


def test_with_a_repository_every_code_example_names_it(undrawn):
    text = text_of(ROOT / "models" / CELLS, "someone/cells")
    code = "\n".join(blocks(text, "python") + blocks(text, ""))
    assert "models/" not in code and code.count('revision="main"') == 4
    assert '"hf-hub:someone/cells@main"' in code and "--model someone/cells@main" in code
    assert "Model someone/cells, recipe" in text
    assert "someone/" not in text_of(ROOT / "models" / CELLS)


def test_a_folder_with_code_says_so_and_is_not_called_a_timm_model(tmp_path, undrawn):
    folder = copied(CELLS, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoModelForImageClassification": "modeling_blastlens.BlastlensForImageClassification"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    text = text_of(folder, "someone/cells")
    assert ModelCard(text).data.library_name == "transformers" and "custom_code" in ModelCard(text).data.tags
    code = "\n".join(blocks(text, "python"))
    assert "read it before you trust it" in text and "timm.create_model" not in code and "onnxruntime" in code
    assert code.count("trust_remote_code=True") == code.count("pipeline(") == 1


def of_unknown_origin(metrics: dict[str, Any]) -> None:
    """Another data set with other labels, without optional measurements and with undefined scores."""
    metrics["label_names"] = ["round", "square"]
    metrics["training"]["dataset"]["name"] = "shapes"
    metrics["training"]["initial_weights"] = "found.safetensors"
    optional = ("int8", "latency_ms", "size_bytes", "check", "external", *OPTIONAL)
    for key in optional:
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


def test_the_card_of_an_unknown_data_set_says_no_more_than_is_known(tmp_path, undrawn):
    folder = copied(CELLS, tmp_path, of_unknown_origin)
    (folder / "gate.json").unlink()
    files = card.render(folder)
    assert set(files) == {"README.md", "figures/noise.png"}
    text = files["README.md"].decode()
    data = ModelCard(text).data
    assert (data.datasets, data.license_name, data.license_link) == (["shapes"], "unknown", None)
    assert data.base_model is None and not [e for e in data.eval_results if e.metric_type == "roc_auc"]
    assert "Which label: round or square?" in text and "not a medical device" in text
    absent = ("C-NMC", "HEM", "Gupta", "baseline", "### Out-of-distribution", "healthy donor", "train.datasets prepare")
    assert [word for word in absent if word in ModelCard(text).text] == []
    assert "| undefined |" in section(text, "### Noise")
    assert "nan" not in re.findall(r"\w+", text) and "None" not in re.sub(r"```.*?```", "", text, flags=re.S)


def test_a_protocol_by_image_is_never_shown_as_unseen_subjects(tmp_path, undrawn):
    folder = copied(SMALL, tmp_path, lambda m: m["protocols"][0].update(name="image-80-10-10", level="image"))
    text = text_of(folder)
    assert "not in its training data" not in top(text) and "image-level" in top(text)
    assert "these scores say nothing about new subjects" in text
    assert all(entry.dataset_args["level"] == "image-level" for entry in ModelCard(text).data.eval_results)


def validated(metrics: dict[str, Any]) -> None:
    metrics["external"] = {
        "data": "elsewhere",
        "images": 4321,
        "subjects": 5,
        "healthy_donors": 7,
        "healthy_images": 321,
        "sha256": metrics["sha256"]["safetensors"],
        "metrics": {
            "specificity": {"value": 0.2345, "low": 0.1, "high": 0.4},
            "worst_specificity": 0.0123,
            "sensitivity": {"value": 0.9876},
        },
        "per_subject": [{"donor": "H9", "positive": False, "images": 46, "rate": 0.5}],
        "baseline": {"name": "cell area", "metrics": {"specificity": {"value": 0.6543}}},
        "caveat": "One subject is not external.",
    }


def test_the_external_validation_is_at_the_top_and_in_a_section_of_its_own(tmp_path, undrawn):
    text = text_of(copied(CELLS, tmp_path, validated))
    sentence = "External validation: 77 % of 321 healthy cells from 7 new donors were classified as leukemic."
    assert sentence in top(text).partition("| --- |")[0]
    details = section(text, "### External validation")
    assert "| specificity | 0.234 (0.100 to 0.400) | 0.654 |" in details
    assert "| specificity on the worst healthy donor | 0.012 | unknown |" in details
    assert "| H9 | healthy | 46 | 50.0 % |" in details and "One subject is not external." in details
    without = text_of(copied(CELLS, tmp_path / "without", lambda metrics: metrics.pop("external", None)))
    assert "**Not externally validated.**" in top(without) and "### External validation" not in without


def test_the_command_writes_a_card_unless_the_folder_was_not_measured(tmp_path, capsys, undrawn):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BlastlensError, match=r"no config\.json"):
        card.render(tmp_path / "empty")
    folder = copied(CELLS, tmp_path)
    (folder / "metrics.json").unlink()
    with pytest.raises(BlastlensError, match=r"no metrics\.json; `python -m train\.evaluate`"):
        card.render(folder)
    (folder / "metrics.json").write_text("{")
    assert card.main([str(folder)]) == 2
    assert "is not valid JSON" in capsys.readouterr().err
    assert not (folder / "README.md").exists()
    folder = copied(FIELDS, tmp_path)
    assert card.main([str(folder), "--repo-id", "someone/fields"]) == 0
    assert 'model="someone/fields"' in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["protocols"].clear(),
        lambda m: m["training"].pop("scaling"),
    ],
)
def test_a_missing_value_is_named(change, tmp_path, undrawn):
    with pytest.raises(BlastlensError, match=r"cannot be rendered: .* lacks something"):
        card.render(copied(CELLS, tmp_path, change))


@pytest.mark.parametrize("model", [SMALL, FIELDS])
def test_optional_sections_are_there_where_they_were_measured(model, tmp_path, undrawn):
    def gaps(metrics: dict[str, Any]) -> None:
        first = metrics["robustness"]["kinds"][0]["severities"][0]
        first |= {"auroc": None, "lost": None, "weighted_f1": {"value": None, "low": None, "high": None}}
        metrics["calibration"]["prediction_sets"]["holds"] = False

    text = text_of(copied(model, tmp_path, gaps))
    assert_sound(text)
    assert "undefined" in section(text, "### Robustness") and "without a prediction set" in section(
        text, "### Calibration"
    )
    probes = section(text, "### Shortcut probes")
    passed, failed = probes.count("| passed |"), probes.count("| **failed** |")
    assert f"{passed} of {passed + failed} passed" in probes and failed
    assert ("### Patients" in text) == (model != FIELDS)
    bare = text_of(copied(model, tmp_path / "bare", lambda m: m.update(dict.fromkeys(OPTIONAL))))
    assert_sound(bare)
    assert not any(heading in bare for heading in ("### Robustness", "### Shortcut probes", "### Patients"))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "image"), [(CELLS, "cell.bmp"), (FIELDS, "field.jpg")])
def test_every_code_example_runs_and_gives_the_classifiers_answer(model, image, tmp_path, monkeypatch, capsys):
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    synthetic_image("ALL" if model == CELLS else "Early", 3).save(image)
    text = (ROOT / "models" / model / "README.md").read_text()
    classifier = Classifier.from_pretrained(model)
    codes = blocks(text, "python")
    assert len(codes) == 4
    for code in codes:
        capsys.readouterr()
        exec(code, {})
        answer = ast.literal_eval(capsys.readouterr().out.splitlines()[0])
        if isinstance(answer, list):
            answer = {one["label"]: one["score"] for one in answer}
        expected = classifier.predict(image, sigma=answer.get("sigma", 0)).probabilities
        # A published frame is shrunk as a whole by others, and by us only where it is kept.
        assert answer.get("probabilities", answer) == pytest.approx(expected, abs=1e-3), code
    (line,) = (one for one in blocks(text, "") if "blastlens classify" in one)
    assert cli.main(line.split()[3:]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["probabilities"] == pytest.approx(classifier.predict(image, sigma=10).probabilities, abs=1e-4)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("model", "data"), [(CELLS, "cnmc2019"), (FIELDS, "aria2021/Original")])
def test_the_check_of_a_copy_is_reproduced_by_a_pipeline(model, data, data_dir):
    recorded = json.loads((ROOT / "models" / model / "metrics.json").read_text())["check"]
    scores = pipeline_evaluation.check(f"models/{model}", data_dir / data)
    assert (scores["images"], scores["right"]) == (recorded["images"], recorded["right"])
    assert len(recorded["sample"]) == recorded["images"] == 100
    assert scores["accuracy"] == pytest.approx(recorded["accuracy"]) == recorded["right"] / recorded["images"]
    text = (ROOT / "models" / model / "README.md").read_text()
    shown = section(text, "### Check your copy")
    assert f"{scores['right']} of {scores['images']} predictions are correct" in shown and "no evidence" in shown


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
def test_a_recorded_check_is_what_the_classifier_answers_and_another_answer_fails_it(measured, tmp_path, capsys):
    folder, data = measured
    check = json.loads((folder / "metrics.json").read_text())["check"]
    found = Classifier.from_pretrained(folder).predict([data / file for file in check["sample"]])
    right = sum(one.label == label for one, label in zip(found, check["sample"].values(), strict=True))
    assert (check["images"], check["right"], check["accuracy"]) == (6, right, pytest.approx(right / 6))
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
