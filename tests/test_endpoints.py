"""Every public endpoint, by gradio_client and as an MCP tool: same answer, and what each answer must carry."""

import ast
import asyncio
import base64
from dataclasses import replace
from mimetypes import guess_type
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers_files import encoded, write_zip
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from blastlens.external_result import NOT_VALIDATED
from blastlens.model_folder import ModelFolder, bundled_root
from blastlens.predictions import DISCLAIMER
from blastlens.synthetic_images import synthetic_image
from blastlens.ui.model_registry import described

# What every answer says of its origin; list_models says it of each model.
CARRIED = {"model_id", "revision", "sigma", "warnings", "disclaimer"}
# What every answer about one image says of how far to trust it; null where the model cannot tell.
JUDGED = ("in_domain", "label_set", "flagged", "suggestion")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One drawn cell, and a zip of labelled ones of four subjects."""
    folder = tmp_path_factory.mktemp("files")
    synthetic_image("ALL", 3).save(folder / "cell.png")
    images = [(label, number) for label in ("ALL", "HEM") for number in range(4)]
    write_zip(
        folder / "labelled.zip",
        [(f"{label}/{label.lower()}{n % 2}/{n}.png", encoded(synthetic_image(label, n))) for label, n in images],
    )
    return folder


def requests(files, sent):
    """Arguments of each endpoint; `sent` turns a file into what the road to it takes."""
    cell, labelled = sent(files / "cell.png"), sent(files / "labelled.zip")
    return {
        "classify": {"image": cell, "model": "tiny-cell", "sigma": 7, "seed": 1, "corruption": "blur", "level": 1},
        "noise_curve": {"image": cell, "model": "tiny-cell", "kind": "jpeg", "patterns": 1, "seed": 0},
        "score_images": {"files": [cell], "model": "tiny-cell", "sigma": 3, "seed": 0},
        "test_on_labelled_images": {"archive": labelled, "model": "tiny-cell"},
        "list_models": {},
    }


def as_uri(path):
    return f"data:{guess_type(path)[0]};base64," + base64.b64encode(path.read_bytes()).decode()


@pytest.fixture(scope="module")
def by_client(demo_address, files):
    client = Client(demo_address, verbose=False)
    asked = requests(files, handle_file)
    return {name: client.predict(**arguments, api_name=f"/{name}") for name, arguments in asked.items()}


@pytest.fixture(scope="module")
def by_mcp(demo_address, files):
    """The answers of the tools to the same requests."""

    async def ask():
        async with (
            streamable_http_client(f"{demo_address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            answers = {}
            for name, arguments in requests(files, as_uri).items():
                result = await session.call_tool(name, arguments)
                assert not result.isError, result.content
                answers[name] = ast.literal_eval(result.content[0].text)  # as Gradio writes it
            return answers

    return asyncio.run(ask())


@pytest.mark.parametrize("name", requests(Path(), str))
def test_gradio_client_and_mcp_give_the_same_result(name, by_client, by_mcp):
    answer = by_client[name]
    assert without_names(answer) == without_names(by_mcp[name])
    for one in answer["models"] if name == "list_models" else [answer]:
        assert CARRIED - ({"sigma", "warnings"} if name == "list_models" else set()) <= set(one | answer)
    assert answer["disclaimer"] == DISCLAIMER


def test_the_first_warning_is_the_external_validation(by_client):
    for name in ("classify", "noise_curve", "score_images", "test_on_labelled_images"):
        assert by_client[name]["warnings"][0] == NOT_VALIDATED, name
    for one in by_client["list_models"]["models"]:
        assert one["external_validation"] == {"result": NOT_VALIDATED, "caveat": "", "record": None}
        assert (one["prevalence"], one["warnings"]) == (None, [])


def test_list_models_has_the_group_disjoint_figure_as_headline(by_client):
    assert all(one["headline"] is None for one in by_client["list_models"]["models"])  # they were never measured
    folder = ModelFolder.load(bundled_root() / "mobilenetv1-cnmc2019")
    answer, measured = described(folder), folder.metrics["headline"]
    assert answer["size_bytes"]["fp32"] > answer["size_bytes"]["int8"] > 0
    assert answer["labels"] == {"ALL": "leukemic B-lymphoblast", "HEM": "normal B-lymphoid precursor"}
    assert answer["headline"] == {
        "score": "AUROC per donor",
        **measured["auroc_per_donor"],
        "protocol": measured["protocol"],
        "measured_on": "cells of subjects that are not in its training data",
    }
    by_image = folder.metrics | {"headline": measured | {"protocol": "image-80-10-10"}}
    assert described(replace(folder, metrics=by_image))["headline"]["measured_on"].startswith("image-level")


def test_a_prevalence_is_refused_by_a_model_that_states_none(demo_address, files):
    client, cell = Client(demo_address, verbose=False), handle_file(files / "cell.png")
    for name, image in (("classify", cell), ("noise_curve", cell), ("score_images", [cell])):
        with pytest.raises(AppError, match="tiny-cell does not state the prevalence"):
            client.predict(image, model="tiny-cell", prevalence=0.5, api_name=f"/{name}")


def test_results_for_images_have_domain_label_set_flag_and_suggestion(by_client):
    for answer in (by_client["classify"], *by_client["score_images"]["images"]):
        # Nothing was measured of the small models that this page serves.
        assert {name: answer[name] for name in JUDGED} == dict.fromkeys(JUDGED)


def without_names(value):
    """An answer without what an upload happened to be called, and without times taken."""
    if isinstance(value, dict):
        left_out = ("file", "name", "seconds", "images_per_second", "archive")
        return {key: without_names(one) for key, one in value.items() if key not in left_out}
    return [without_names(one) for one in value] if isinstance(value, list) else value
