"""Shortcut probes: what is left of a model's score when an image keeps only part of what it shows.

    python -m train.shortcut_probes results/folds/mobilenet_m-cnmc2019 --data DIR --every 5 --out probes.json

Each probe changes held-out images and asks the network that was not trained on their groups. Some changes leave
everything that matters, and the score must stay ("keeps"); others remove it, and the score must go ("loses"). The
limits and their reasons stand in the tables below and were written before any network was asked. What the changes do
to pixels is here; where the cell is, in `train.masks`.

"Keeps" is judged by what the weighted F1 loses on the same images. "Loses" is judged by AUROC, whose chance level is
0.5 whatever the shares of the classes, and which still finds what a network knows when every answer falls on one side
of its threshold. Either is judged by its value; the interval beside it says how sure that is. A network that has never
seen such pictures may fail to read what they still hold: a score that goes shows no shortcut, it does not prove that
there is none.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from blastlens import bootstrap, metrics
from blastlens.errors import BlastlensError
from train.baselines import WITHOUT_NETWORK, features_of, held_out_probabilities
from train.crossval import plain
from train.files import write_json
from train.folds import Change, FoldNetworks
from train.masks import cell_mask, nuclei_mask

SCORES = ("weighted_f1", "balanced_accuracy", "auroc")
QUALITY = 75  # of JPEG, what most programs save with
SHIFT = 0.1  # of the side
# Side of the square in the lower right corner of a published field that holds its scale bar, of the image's side; the
# largest of the three kinds of bar reaches 0.134.
CORNER = 0.16
# Of the images that tell what a typical cell of a fold's training groups looks like.
REFERENCE_IMAGES = 300
# AUROC of a score that knows nothing is 0.5; with some 35 groups, all images of a group alike, its standard deviation
# is about 0.1.
CHANCE = 0.6
# Points of weighted F1: one in a hundred answers is what changes when nothing that matters does.
NOTHING = 0.01
SLIGHT = 0.02  # where resampling or compression takes a little detail as well


@dataclass(frozen=True, eq=False)
class Typical:
    """What training images of a fold look like, to fill in where a probe takes something away.

    Attributes:
        area: count of pixels of a cell between the classes: geometric mean of their medians (of all nuclei, in fields).
        inside, outside: (3,) uint8, mean colour of cell (nuclei) and of the rest; black around single cells.
    """

    area: float
    inside: np.ndarray
    outside: np.ndarray


# What a probe does to a view: uint8 (S, S, 3), what is typical, random numbers of this image's own -> the same.
Alter = Callable[[np.ndarray, Typical, np.random.Generator], np.ndarray]
# A number, or what it is found from: AUROC by name, of "clean" and of each baseline without a network.
Limit = float | Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class Probe:
    """One change, and what must happen to the score.

    Attributes:
        name, title, what: for records, for tables, and in one sentence.
        expect: whether the score "keeps" or "loses".
        limit: for "keeps" what the weighted F1 may lose at most, for "loses" what the AUROC may be at most.
        reason: of that limit.
    """

    name: str
    title: str
    what: str
    expect: Literal["keeps", "loses"]
    limit: Limit
    reason: str
    alter: Alter


def grey(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """Brightness without colour (ITU-R BT.601)."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def quarter_turn(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """Turned by 90 degrees, exactly."""
    return np.ascontiguousarray(np.rot90(pixels))


def eighth_turn(mode: Literal["constant", "reflect"]) -> Alter:
    """Turned by 45 degrees; beyond the border is black, or the image mirrored."""

    def alter(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
        margin = len(pixels) // 2 - 1  # of which a turn by 45 degrees needs 0.21 of the side
        padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode=mode)
        turned = Image.fromarray(padded).rotate(45, Image.Resampling.BICUBIC)
        return np.asarray(turned)[margin:-margin, margin:-margin]

    return alter


def shifted_cell(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A cell on black moved by `SHIFT` in a random direction, but never over the border."""
    rows, columns = np.flatnonzero(cell_mask(pixels).any(axis=1)), np.flatnonzero(cell_mask(pixels).any(axis=0))
    if not len(rows):
        return pixels
    down, right = _direction(len(pixels), rng)
    down = int(np.clip(down, -rows[0], len(pixels) - 1 - rows[-1]))
    right = int(np.clip(right, -columns[0], len(pixels) - 1 - columns[-1]))
    return _moved(pixels, down, right, "constant")


def shifted_field(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A field moved by `SHIFT` in a random direction, mirrored where nothing is known."""
    return _moved(pixels, *_direction(len(pixels), rng), "reflect")


def _direction(side: int, rng: np.random.Generator) -> tuple[int, int]:
    angle = rng.uniform(0, 2 * np.pi)
    return round(SHIFT * side * np.sin(angle)), round(SHIFT * side * np.cos(angle))


def _moved(pixels: np.ndarray, down: int, right: int, mode: Literal["constant", "reflect"]) -> np.ndarray:
    margin = max(abs(down), abs(right))
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode=mode)
    top, left = margin - down, margin - right
    return padded[top : top + len(pixels), left : left + len(pixels)]


def recompressed(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """Saved as JPEG and read again."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(file))


def with_bar(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """With a white scale bar and its digits in the lower right corner, as smear fields have them."""
    side = len(pixels)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    left, right, bottom = round(0.86 * side), round(0.98 * side), round(0.97 * side)
    draw.rectangle((left, bottom - max(1, side // 100), right, bottom), fill="white")
    draw.text((left, bottom - 0.02 * side), "10 µm", fill="white", font_size=max(6, side // 22), anchor="lb")
    return np.asarray(image)


def without_corner(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The corner of the scale bar painted over with the median colour of what surrounds it."""
    side = len(pixels)
    at, around = side - round(CORNER * side), side - round(1.5 * CORNER * side)
    ring = np.ones((side - around, side - around), bool)
    ring[at - around :, at - around :] = False
    covered = pixels.copy()
    covered[at:, at:] = np.median(pixels[around:, around:][ring], axis=0)
    return covered


def only_corner(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """Nothing but the corner of the scale bar."""
    at = len(pixels) - round(CORNER * len(pixels))
    kept = np.broadcast_to(typical.outside, pixels.shape).copy()
    kept[at:, at:] = pixels[at:, at:]
    return kept


def cell_painted_out(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A cell's background alone: black, and what resampling left in it."""
    return np.where(cell_mask(pixels)[..., None], 0, pixels).astype(np.uint8)


def nuclei_painted_out(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A field without its nuclei and its scale bar: both get the field's own clear colour."""
    plain_field = without_corner(pixels, typical, rng)
    mask = _widened(nuclei_mask(plain_field))
    if mask.all():
        return np.broadcast_to(typical.outside, pixels.shape).copy()
    rest = plain_field[~mask]
    brightness = rest.sum(axis=1)
    clear = np.median(rest[brightness >= np.median(brightness)], axis=0)
    return np.where(mask[..., None], clear, plain_field).astype(np.uint8)


def _widened(mask: np.ndarray) -> np.ndarray:
    """With a rim of 1 % of the side, where a nucleus fades into what surrounds it."""
    reach = max(1, len(mask) // 100)
    padded = np.pad(mask, reach)
    shifts = range(2 * reach + 1)
    return np.any([padded[i : i + len(mask), j : j + len(mask)] for i in shifts for j in shifts], axis=0)


def cell_silhouette(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The cell's outline, filled with the training cells' mean colour."""
    return np.where(cell_mask(pixels)[..., None], typical.inside, 0).astype(np.uint8)


def nuclei_silhouettes(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The nuclei's outlines, in the training nuclei's mean colour on the mean colour of the rest; no scale bar."""
    mask = nuclei_mask(without_corner(pixels, typical, rng))
    return np.where(mask[..., None], typical.inside, typical.outside).astype(np.uint8)


def disc(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A disc in the middle, as large as the cell and of the training cells' mean colour."""
    away = np.arange(len(pixels)) - (len(pixels) - 1) / 2
    inside = away[:, None] ** 2 + away**2 <= cell_mask(pixels).sum() / np.pi
    return np.where(inside[..., None], typical.inside, 0).astype(np.uint8)


def same_area(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The cell enlarged or reduced about its middle to the typical area."""
    rows, columns = np.nonzero(cell_mask(pixels))
    if not len(rows):
        return pixels
    step = np.sqrt(len(rows) / typical.area)  # pixels of the view per pixel of the result
    half = len(pixels) / 2
    affine = (step, 0, columns.mean() + 0.5 - half * step, 0, step, rows.mean() + 0.5 - half * step)
    image = Image.fromarray(pixels)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC))


def shuffled_cell(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The cell's pixels in random order within its outline."""
    mask = cell_mask(pixels)
    mixed = pixels.copy()
    mixed[mask] = rng.permutation(pixels[mask])
    return mixed


def shuffled_field(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """All pixels but those of the scale bar's corner in random order."""
    plain_field = without_corner(pixels, typical, rng)
    return rng.permutation(plain_field.reshape(-1, 3)).reshape(pixels.shape)


def _no_more_than(baseline: str) -> Limit:
    """What one property alone tells without a network; chance, where that is nothing."""
    return lambda auroc: max(CHANCE, auroc[baseline])


def _half_of_clean(auroc: Mapping[str, float]) -> float:
    return 0.5 + (auroc["clean"] - 0.5) / 2


_GREY = Probe(
    "grey",
    "In grey",
    "Colour taken away, brightness kept.",
    "keeps",
    0.05,
    "Stain differs between laboratories; shape and texture, which define a blast, are all still there. Some loss is "
    "due, since the chromatin's colour is a sign as well.",
    grey,
)
_QUARTER = Probe(
    "rotation_90",
    "Turned by 90°",
    "A quarter turn, no pixel changed.",
    "keeps",
    NOTHING,
    "A smear has no up or down.",
    quarter_turn,
)
_JPEG = Probe(
    "jpeg",
    "Saved again as JPEG",
    f"Compressed at quality {QUALITY} and read again.",
    "keeps",
    SLIGHT,
    "A person sees no difference; a network that does has learnt how files were made.",
    recompressed,
)


def _eighth(mode: Literal["constant", "reflect"], beyond: str) -> Probe:
    return Probe(
        "rotation_45",
        "Turned by 45°",
        f"An eighth of a turn, resampled; {beyond}.",
        "keeps",
        SLIGHT,
        "A smear has no up or down; resampling takes a little detail.",
        eighth_turn(mode),
    )


def _shift(alter: Alter, how: str) -> Probe:
    return Probe(
        "shift",
        "Off centre",
        f"Moved by {SHIFT:.0%} of the side in a random direction, {how}.",
        "keeps",
        SLIGHT,
        "Where in the picture a cell lies is the photographer's choice.",
        alter,
    )


CELLS = (
    _QUARTER,
    _eighth("constant", "black beyond the border"),
    _shift(shifted_cell, "as far as the cell does not leave the picture"),
    _JPEG,
    Probe(
        "bar_added",
        "Scale bar added",
        "A white bar and digits in the lower right corner, which no published cell has.",
        "keeps",
        SLIGHT,
        "It is no part of the cell.",
        with_bar,
    ),
    _GREY,
    Probe(
        "same_area",
        "All cells of one size",
        "Each cell enlarged or reduced to one area, midway between those typical of ALL and HEM; how sharp a cell is "
        "changes with it.",
        "keeps",
        0.1,
        "Blasts are larger, so some loss is due; but of the 0.25 to 0.35 by which a useful score exceeds that of one "
        "constant answer, most must come from elsewhere.",
        same_area,
    ),
    Probe(
        "background",
        "Background only",
        "The cell painted black. What is left is black and what resampling left in it.",
        "loses",
        CHANCE,
        "Nothing of the cell is left.",
        cell_painted_out,
    ),
    Probe(
        "silhouette",
        "Silhouette only",
        "The cell's outline filled with one colour, the training cells' mean.",
        "loses",
        _no_more_than("cell area"),
        "Size is a sign, and an outline shows it; more than the area alone tells, without any network, would come from "
        "how cells were cut out.",
        cell_silhouette,
    ),
    Probe(
        "disc",
        "Size only",
        "A disc of the cell's area in that colour.",
        "loses",
        _no_more_than("cell area"),
        "All it shows is the area.",
        disc,
    ),
    Probe(
        "shuffled",
        "Colour and size only",
        "The cell's pixels in random order within its outline: texture gone, its histogram kept.",
        "loses",
        _half_of_clean,
        "Texture and inner structure make the difference between the cells; without them, at most half of what the "
        "model has above chance may be left.",
        shuffled_cell,
    ),
)

FIELDS = (
    _QUARTER,
    _eighth("reflect", "mirrored beyond the border"),
    _shift(shifted_field, "mirrored where nothing is known"),
    _JPEG,
    Probe(
        "bar_covered",
        "Scale bar covered",
        "The lower right corner, where some fields have a scale bar, painted over with the colour around it.",
        "keeps",
        NOTHING,
        "The bar is no part of the smear, and which kind of bar a field has goes with its class.",
        without_corner,
    ),
    _GREY,
    Probe(
        "corner",
        "Scale bar only",
        "Only that corner; the rest is one colour, the mean of the training fields' background.",
        "loses",
        CHANCE,
        "A fortieth of the field, most often a bar or background.",
        only_corner,
    ),
    Probe(
        "background",
        "Background only",
        "Everything stained as nuclei are, found by colour, and the scale bar painted over with the field's own clear "
        "colour. Red cells and the slide's tint stay, and flat patches where nuclei were.",
        "loses",
        CHANCE,
        "The classes are defined by the nucleated cells, none of which is left.",
        nuclei_painted_out,
    ),
    Probe(
        "silhouette",
        "Silhouettes only",
        "The outlines of what is stained as nuclei are, in one colour on one background, the training fields' means.",
        "loses",
        _no_more_than("nuclear area"),
        "How many nuclei there are and how large is how the slide was photographed as much as it is disease; more than "
        "their total area alone tells, without any network, would come from that.",
        nuclei_silhouettes,
    ),
    Probe(
        "shuffled",
        "Colour only",
        "All pixels in random order (scale bar covered): nothing but the colour histogram is left.",
        "loses",
        _half_of_clean,
        "Each class of this data set was photographed under its own conditions, so colour tells them apart without "
        "telling anything about cells; at most half of what the model has above chance may be left.",
        shuffled_field,
    ),
)
PROBES = {"cnmc2019": CELLS, "aria2021": FIELDS}

# What desaturating only one class does; a training set that holds grey copies of HEM alone teaches "grey is healthy".
GREYED = (
    ("hem_desaturated", "HEM desaturated only", (1,)),
    ("all_desaturated", "ALL desaturated only", (0,)),
    ("both_desaturated", "ALL and HEM desaturated", (0, 1)),
)
GREY_LIMIT = 0.1
GREY_REASON = (
    "Colour is a sign as well, so that a few cells may change sides without it; a model that takes grey itself as a "
    "sign changes most of them."
)


def measure(networks: FoldNetworks, every: int = 1, progress: bool = True) -> dict[str, Any]:
    """metrics.json's `probes`: every probe's scores on held-out images, and what passes.

    Args:
        every: only every so-manieth image of each group is asked about; baselines are fitted on all training images.

    Returns:
        `rows`, one per probe: `measure` names what `limit` is on ("difference" or "auroc") and `reason` says why it
        stands there. `without_network`: baselines on the same folds and images. `grey_is_healthy`, for ALL or HEM
        only: see there.
    """
    index = networks.every(every)
    names, groups = networks.label_names, networks.groups[index]
    typical = {k: _typical(networks, k) for k in range(len(networks.splits))}
    bars = _without_network(networks, index, progress)
    clean = networks.held_out(index=index, what="unchanged" if progress else "")
    before = _scores(clean.label, clean.probabilities, groups, names)
    auroc = {"clean": before["auroc"].value} | {name: scores["auroc"].value for name, scores in bars.items()}
    rows = []
    for probe in PROBES[networks.recipe.dataset]:
        change = _change(probe.alter, networks, typical)
        found = networks.held_out(change, index, probe.title if progress else "")
        after = _scores(clean.label, found.probabilities, groups, names)
        difference = _paired(clean.label, found.probabilities, clean.probabilities, groups)
        limit = probe.limit if isinstance(probe.limit, float) else probe.limit(auroc)
        keeps = probe.expect == "keeps"
        rows.append(
            {
                "probe": probe.name,
                "title": probe.title,
                "expect": probe.expect,
                "what": probe.what,
                **after,
                "difference": difference,
                "measure": "difference" if keeps else "auroc",
                "limit": limit,
                "reason": probe.reason,
                "passed": bool(difference.value >= -limit if keeps else after["auroc"].value <= limit),
            }
        )
    record = {
        "protocol": networks.protocol,
        "seed": networks.seed,
        "every": every,
        "images": len(index),
        "clean": before,
        "rows": rows,
        "without_network": [{"name": name, **scores} for name, scores in bars.items()],
    }
    if networks.recipe.dataset == "cnmc2019":
        record["grey_is_healthy"] = grey_is_healthy(networks, index, clean.probabilities, progress)
    return plain(record)


def grey_is_healthy(
    networks: FoldNetworks, index: np.ndarray, in_colour: np.ndarray, progress: bool = False
) -> dict[str, Any]:
    """What desaturating one class does, as the paper of MobileNet_M does it for training, to HEM only.

    Args:
        index: (n,) rows asked about. in_colour: (n, 2), their held-out probabilities of ALL and HEM.

    Returns:
        `called_HEM_in_colour`, `called_HEM_in_grey`: share of the ALL images that are called HEM; `difference`, the
        latter minus the former; `limit` on it, `reason` and `passed`. `rows`: the scores with HEM, ALL or both
        desaturated: where grey means healthy, greying HEM only raises them and greying ALL only brings them down.
    """
    labels, groups = networks.labels[index], networks.groups[index]
    in_grey = networks.held_out(
        lambda view, i: np.repeat(view.max(axis=2, keepdims=True), 3, axis=2), index, "desaturated" if progress else ""
    ).probabilities
    sick = labels == 0

    def called_hem(probabilities: np.ndarray) -> metrics.Interval:
        right = bootstrap.summary(labels[sick], probabilities[sick], groups[sick], networks.label_names)["accuracy"]
        return metrics.Interval(1 - right.value, 1 - right.high, 1 - right.low)

    # In grey fewer are right, so more are called HEM: colour minus grey in accuracy is grey minus colour in HEM.
    difference = bootstrap.difference(labels[sick], in_colour[sick], in_grey[sick], groups[sick], metric="accuracy")
    rows = []
    for name, title, classes in GREYED:
        mixed = np.where(np.isin(labels, classes)[:, None], in_grey, in_colour)
        scores = _scores(labels, mixed, groups, networks.label_names)
        rows.append({"probe": name, "title": title, **scores, "difference": _paired(labels, mixed, in_colour, groups)})
    return {
        "called_HEM_in_colour": called_hem(in_colour),
        "called_HEM_in_grey": called_hem(in_grey),
        "difference": difference,
        "limit": GREY_LIMIT,
        "reason": GREY_REASON,
        "passed": bool(difference.value <= GREY_LIMIT),
        "rows": rows,
    }


def _typical(networks: FoldNetworks, fold: int) -> Typical:
    """From the fold's training images, evenly taken: none of those that its network is asked about."""
    train = np.sort(networks.splits[fold].train)
    chosen = train[:: max(1, len(train) // REFERENCE_IMAGES)]
    views = np.stack([np.asarray(networks.pixels[i]) for i in chosen])
    cells = networks.recipe.dataset == "cnmc2019"
    masks = np.stack([(cell_mask if cells else nuclei_mask)(view) for view in views])
    inside = views[masks].mean(axis=0) if masks.any() else np.zeros(3)
    outside = views[~masks].mean(axis=0) if not cells and not masks.all() else np.zeros(3)
    # Between the classes, however many images each has: at the median of all, the larger class would keep its size.
    areas = masks.sum(axis=(1, 2)).clip(1)
    of_class = [np.median(areas[networks.labels[chosen] == c]) for c in np.unique(networks.labels[chosen])]
    area = float(np.exp(np.log(of_class).mean()))
    return Typical(area, np.rint(inside).astype(np.uint8), np.rint(outside).astype(np.uint8))


def _change(alter: Alter, networks: FoldNetworks, typical: Mapping[int, Typical]) -> Change:
    def change(view: np.ndarray, index: int) -> np.ndarray:
        return alter(view, typical[int(networks.fold_of[index])], np.random.default_rng([networks.seed, index]))

    return change


def _without_network(networks: FoldNetworks, index: np.ndarray, progress: bool) -> dict[str, dict[str, Any]]:
    """Scores of each baseline on the images asked about, by name."""
    names, labels = networks.label_names, networks.labels
    found = {}
    for name, feature in WITHOUT_NETWORK[networks.recipe.dataset].items():
        x = features_of(feature, networks.pixels, name if progress else "")
        probabilities = held_out_probabilities(x, labels, networks.splits, len(names))[index]
        found[name] = _scores(labels[index], probabilities, networks.groups[index], names)
    return found


def _scores(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, names: Sequence[str]
) -> dict[str, metrics.Interval]:
    positive = 0 if len(names) == 2 else None
    report = bootstrap.summary(labels, probabilities, groups, names, positive=positive)
    return {key: report[key] for key in SCORES}


def _paired(labels: np.ndarray, after: np.ndarray, before: np.ndarray, groups: np.ndarray) -> metrics.Interval:
    return bootstrap.difference(labels, after, before, groups, metric="weighted_f1")


def described(record: Mapping[str, Any]) -> str:
    """The probes as a table for a terminal."""
    lines = [f"{record['images']} held-out images, {record['protocol']}", f"{'unchanged':28s}" + _line(record["clean"])]
    for row in record["rows"]:
        verdict = (
            f"{row['expect']}, {row['measure']} limit {row['limit']:.3f}: {'passed' if row['passed'] else 'FAILED'}"
        )
        lines.append(f"{row['title']:28s}{_line(row)}  {row['difference']['value']:+.3f}  {verdict}")
    lines += [f"{row['name']:28s}{_line(row)}  no network" for row in record["without_network"]]
    if found := record.get("grey_is_healthy"):
        lines += [f"{row['title']:28s}{_line(row)}  {row['difference']['value']:+.3f}" for row in found["rows"]]
        shares = (found[key]["value"] for key in ("called_HEM_in_colour", "called_HEM_in_grey"))
        lines.append("ALL called HEM: {:.3f} in colour, {:.3f} in grey".format(*shares))
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    return "  ".join(f"{row[key]['value']:.3f} ({row[key]['low']:.3f} to {row[key]['high']:.3f})" for key in SCORES)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.shortcut_probes", description=__doc__.splitlines()[0])
    parser.add_argument("folds", type=Path, help="folder of train.folds")
    parser.add_argument("--data", type=Path, required=True, help="the prepared dataset that they were trained on")
    parser.add_argument("--every", type=int, default=1, help="ask about every so-manieth image of each group")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args(argv)
    try:
        networks = FoldNetworks.load(arguments.folds, arguments.data, arguments.cache)
        record = measure(networks, arguments.every) | {"recipe": networks.recipe.to_dict()}
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.out:
        write_json(arguments.out, record)
    print(described(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
