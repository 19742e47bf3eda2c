"""Opening untrusted images, and framing them as timm and transformers do."""

import io

import numpy as np
import pytest
from helpers_files import BAD_FILES, encoded, picture
from helpers_models import FRAME, PREPROCESSOR, SIZE, blobs, config_json
from PIL import Image

from blastlens.errors import BlastlensError
from blastlens.images import open_image, read_image
from blastlens.inference import normalise
from blastlens.view import View

HALF = (0.5, 0.5, 0.5)
CELL = View(SIZE, FRAME, "bicubic", HALF, HALF)
FIELD = View(SIZE, None, "bicubic", HALF, HALF)
ODD_SIZES = [(224, 224), (223, 224), (256, 300), (301, 224), (481, 641), (100, 90), (450, 451)]


def pixels_of(source, name=None):
    image = open_image(source, name)
    assert image.mode == "RGB"
    return np.asarray(image)


# Opening


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_files_keep_every_pixel(tmp_path, suffix):
    file = tmp_path / f"cell.{suffix}"
    Image.fromarray(picture()).save(file, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(pixels_of(file), picture())


@pytest.mark.parametrize("address", ["https://host.example/cell.png", "data:image/png;base64," + "A" * 50_000])
def test_an_address_is_refused_in_a_short_sentence(address):
    with pytest.raises(BlastlensError, match="is an address, which is not fetched") as error:
        open_image(address)
    assert len(str(error.value)) < 400


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    file = tmp_path / "cell.png"
    Image.fromarray(picture()).save(file)
    rows = {"bytes": file.read_bytes(), "path": "cell.png"}, {"bytes": None, "path": str(file)}  # of `datasets`
    with file.open("rb") as opened:
        for source in (file, str(file), file.read_bytes(), opened, Image.open(file), picture(), *rows):
            assert np.array_equal(pixels_of(source), picture())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    # How each EXIF orientation is undone, in array terms.
    upright = [
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[::-1],
        lambda a: a.swapaxes(0, 1),
        lambda a: np.rot90(a, -1),
        lambda a: a[::-1, ::-1].swapaxes(0, 1),
        lambda a: np.rot90(a),
    ][orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels_of(encoded(picture(40, 30), exif=exif)), upright(picture(40, 30)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_shown_on_black(tmp_path, mode):
    image = Image.fromarray(picture()).convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 112, 224))
    image.putalpha(alpha)
    file = tmp_path / "clear.png"
    if mode == "P":
        palette = Image.new("P", (64, 64), 1)
        palette.putpalette([200, 100, 50, 10, 20, 30])
        palette.paste(0, (0, 0, 32, 64))
        palette.save(file, transparency=0)
    else:
        image.convert(mode).save(file)
    image, notes = read_image(file)
    pixels = np.asarray(image)
    half = pixels.shape[1] // 2
    assert not pixels[:, :half].any()
    assert pixels[:, half:].any()
    assert "its transparent pixels were shown on black" in notes


def test_an_opaque_alpha_channel_changes_nothing_and_needs_no_note():
    image, notes = read_image(np.dstack([picture(), np.full((224, 224), 255, np.uint8)]))
    assert np.array_equal(np.asarray(image), picture()) and notes == ()


def test_a_gif_gives_its_first_frame_and_says_so(tmp_path):
    frames = [Image.fromarray(blobs(n, 48, 48)).quantize(64) for n in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    palette = "its colours come from a palette of at most 256"
    for name, expected in (("moving", ("only the first of its frames was used", palette)), ("still", (palette,))):
        image, notes = read_image(tmp_path / f"{name}.gif")
        assert np.array_equal(np.asarray(image), np.asarray(frames[0].convert("RGB")))
        assert notes == expected


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_sentence_that_names_it(tmp_path, name):
    write, reason = BAD_FILES[name]
    write(tmp_path / name)
    with pytest.raises(BlastlensError) as refusal:
        open_image(tmp_path / name)
    assert name in str(refusal.value)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("dtype", [float, np.uint16, np.uint8])
@pytest.mark.parametrize("shape", [(32, 32, 2), (2, 32, 32, 3), (0, 32, 3)])
def test_an_array_that_is_no_8_bit_image_is_refused(shape, dtype):
    with pytest.raises(BlastlensError, match="uint8 of shape"):
        open_image(np.zeros(shape, dtype))


@pytest.mark.parametrize("source", [None, 7, object(), io.StringIO("text")])
def test_a_source_of_another_type_is_refused(source):
    with pytest.raises(BlastlensError):
        open_image(source)


# Framing


@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_a_field_view_is_exactly_timms_evaluation_transform(size, interpolation):
    from timm.data import create_transform

    transform = create_transform(
        (3, SIZE, SIZE), interpolation=interpolation, crop_pct=1.0, crop_mode="center", use_prefetcher=True
    )
    image = Image.fromarray(blobs(1, *size))
    view = View(SIZE, None, interpolation, HALF, HALF)
    assert np.array_equal(view.apply(image), transform(image).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_a_cell_on_black_is_seen_as_if_all_the_black_were_resampled_too(interpolation):
    view = View(SIZE, 314, interpolation, HALF, HALF)
    rng = np.random.default_rng(0)
    for width, height in [(450, 450), (315, 700), *rng.integers(400, 1200, (40, 2)).tolist()]:
        pixels = np.zeros((height, width, 3), np.uint8)
        (top, bottom), (left, right) = (np.sort(rng.integers(0, side, 2)) for side in (height, width))
        # Noise, whose every rounding shows.
        pixels[top : bottom + 1, left : right + 1] = rng.integers(0, 256, (bottom + 1 - top, right + 1 - left, 3))
        seen = view.apply(Image.fromarray(pixels)).astype(int)
        pixels[[0, -1], [0, -1]] = 1  # specks in the corners, which the view does not reach
        away = np.abs(view.apply(Image.fromarray(pixels)) - seen)
        assert away.max() <= 1 and (away > 0).mean() < 0.005, (width, height)


@pytest.mark.parametrize("size", [*ODD_SIZES, (314, 314), (315, 315), (450, 450), (900, 450), (400, 100), (30, 500)])
def test_a_cell_view_is_what_the_transformers_processor_shows_a_pipeline(size):
    from transformers.models.donut.image_processing_donut import DonutImageProcessor
    from transformers.models.donut.image_processing_pil_donut import DonutImageProcessorPil

    settings = {k: v for k, v in PREPROCESSOR.items() if k != "image_processor_type"}
    settings |= {"do_rescale": False, "do_normalize": False}
    image = Image.fromarray(blobs(2, *size))
    ours = CELL.apply(image).astype(int)
    assert ours.shape == (SIZE, SIZE, 3)
    for processor in (DonutImageProcessor(**settings), DonutImageProcessorPil(**settings)):
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
        if max(size) <= FRAME:
            assert np.array_equal(ours, theirs)
        else:  # Pillow and torchvision round a few resampled pixels differently
            assert np.abs(ours - theirs).max() <= 2
            assert np.abs(ours - theirs).mean() < 0.02


def test_normalise_is_x_over_255_minus_mean_over_std():
    view = View(32, None, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = np.stack([blobs(n, 32, 32) for n in range(2)])
    expected = (pixels / 255 - np.array(view.mean)) / np.array(view.std)
    batch = normalise(view, pixels)
    assert batch.dtype == np.float32 and batch.flags.c_contiguous
    np.testing.assert_allclose(batch, expected.transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("view", "size", "remark"),
    [
        (CELL, (450, 450), None),
        (CELL, (224, 224), None),
        (CELL, (640, 480), "450x450 or prepared 224x224; it was resized and cropped"),
        (CELL, (100, 100), "it was padded or cropped, not resized"),
        (FIELD, (1000, 1000), None),
        (FIELD, (640, 480), "image is 640x480; only its centre square was used"),
        (FIELD, (100, 100), "image is 100x100; it was enlarged to 224x224"),
    ],
)
def test_a_size_that_the_model_was_not_trained_on_is_pointed_out(view, size, remark):
    remarks = view.remarks(size, blobs(1))
    assert remarks == () if remark is None else remark in remarks[0]
    (*_, grey) = view.remarks(size, np.repeat(blobs(1)[..., :1], 3, axis=2))
    assert "no colour" in grey


def test_views_are_read_from_a_model_folders_settings():
    assert View.from_folder(config_json("cell"), PREPROCESSOR) == CELL
    assert View.from_folder(config_json("field"), None) == FIELD


@pytest.mark.parametrize(
    "change",
    [
        *({"input_size": size} for size in ([3, 224, 256], [1, 224, 224], [3, 4, 4], [3, 224.5, 224.5], None)),
        *({"test_input_size": [3, 256, 256]}, {"crop_pct": 0.875}, {"crop_mode": "squash"}),
        *({"interpolation": "nearest"}, {"interpolation": ["bicubic"]}),
        *({"mean": mean} for mean in ([0.5, 0.5], [0.5, 0.5, float("nan")])),
        *({"std": std} for std in ([0.5, 0.5, 0], "0.5", None)),
    ],
    ids=str,
)
def test_settings_a_view_cannot_honour_are_refused(change):
    config = config_json("field")
    config["pretrained_cfg"] |= change
    with pytest.raises(BlastlensError):
        View.from_folder(config, None)


@pytest.mark.parametrize(
    "change",
    [
        *({"image_processor_type": "ViTImageProcessor"}, {"do_resize": True}, {"do_thumbnail": False}),
        *({"do_align_long_axis": True}, {"rescale_factor": 1.0}, {"crop_size": {"height": 200, "width": 200}}),
        *({"size": {"height": 314, "width": 300}}, {"size": 200}, {"size": None}),
        *({"resample": 0}, {"resample": [3]}, {"image_mean": None}),
    ],
    ids=str,
)
def test_a_preprocessor_that_shows_the_pipeline_other_pixels_is_refused(change):
    with pytest.raises(BlastlensError):
        View.from_folder(config_json("cell"), PREPROCESSOR | change)


@pytest.mark.parametrize(("kind", "preprocessor"), [("cell", None), ("field", PREPROCESSOR)])
def test_a_preprocessor_and_its_name_in_config_go_together(kind, preprocessor):
    with pytest.raises(BlastlensError, match="one is missing"):
        View.from_folder(config_json(kind), preprocessor)


@pytest.mark.data
def test_raw_cells_and_their_prepared_twins_look_the_same(data_dir):
    raw = sorted((data_dir / "cnmc2019_raw_sample").rglob("*.bmp"))
    twins = {file.stem: file for file in (data_dir / "cnmc2019").rglob("*.webp")}
    pairs = [(file, twins[file.stem]) for file in raw if file.stem in twins]
    assert len(pairs) >= 20
    for file, twin in pairs:
        prepared = open_image(twin)
        assert np.array_equal(CELL.apply(prepared), np.asarray(prepared))
        difference = np.abs(CELL.apply(open_image(file)).astype(int) - np.asarray(prepared))
        assert difference.mean() < 2
