"""The pages: one function for each gathers its tables and figures; the prose is in `templates/`."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from blastlens.metrics import Interval
from train.recipe import Recipe
from train.report import figures, measured, record
from train.report.cells import (
    HOW,
    LEVEL_NAMES,
    NOTHING,
    better,
    changes,
    claimed_accuracy,
    claimed_f1,
    fold_title,
    how,
    latency_name,
    missing,
    protocol_title,
    reading,
    score,
    score_of,
    shipped,
    show,
    signed,
    spread,
    stacked,
    table,
)
from train.report.evidence import LEVELS, Evidence, Row
from train.report.measured import Measured, donor_scores, part, scores
from train.report.published import Ablation, Claim, Noise
from train.results import HONEST

TEMPLATES = Path(__file__).parent / "templates"
NEAR = 0.015  # how far from a claim a measured accuracy counts as reproduced
Page = tuple[dict[str, Any], dict[str, Figure]]  # what its template needs, and its figures by name


def render(evidence: Evidence) -> dict[str, str]:
    """Every page and figure, and the demo's record of them, by its path below `results/`."""
    files = {}
    for name, page in PAGES.items():
        context, drawings = page(evidence)
        files[f"{name}.md"] = _fill(name, evidence, context)
        files |= {f"figures/{drawing}.svg": figures.svg(figure) for drawing, figure in drawings.items()}
    files["comparison.json"] = record.render(evidence)
    return files


def readme_block(evidence: Evidence) -> str:
    """The comparison in the project's README.md, between its marks."""
    return _fill("comparison", evidence, comparison(evidence)[0]).strip()


def _fill(name: str, evidence: Evidence, context: dict[str, Any]) -> str:
    datasets = evidence.published.datasets
    images = {name: _images_at_hand(evidence, name) for name in datasets}
    return filled(name, datasets=datasets, images=images, honest=HONEST, **context)


def filled(name: str, **context: Any) -> str:
    """The template of a page with what it needs put in."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(f"{name}.md").render(**context)
    return re.sub(r"\n{3,}", "\n\n", text)  # what a template leaves out leaves empty lines behind


def _images_at_hand(evidence: Evidence, dataset: str) -> int | None:
    """How many images of a data set the measured figures come from."""
    counts = [m.first.dataset["images"] for row in evidence.of(dataset) for m in (row.image, row.group) if m]
    counts += [record["n_images"] for row in evidence.of(dataset) if (record := shipped(evidence, row))]
    return max(counts, default=None)


def comparison(evidence: Evidence) -> Page:
    """The main page: claimed, image-level, group-disjoint, the leak, and how each figure was made."""
    context: dict[str, Any] = {"accuracy": {}, "compact": {}, "f1": {}, "donors": {}, "how": {}}
    dots = {}
    header = ("system", "claimed", "image-level", "group-disjoint", "leak", "first weights", "changed")
    for name, dataset in evidence.published.datasets.items():
        rows = evidence.of(name)
        lines = [
            (
                row.recipe.title,
                claimed_accuracy(evidence.claim(row)),
                *(score(evidence, row, level) for level in LEVELS),
                signed(row.leak),
                row.start,
                changes(evidence, row),
            )
            for row in rows
        ]
        context["accuracy"][name] = table(header, lines)
        context["compact"][name] = table(header[:-1], [line[:-1] for line in lines])
        context["f1"][name] = _f1_table(evidence, name)
        context["donors"][name] = _donor_table(evidence, name)
        context["how"][name] = table(HOW, [how(evidence, row, m) for row in rows for m in (row.image, row.group) if m])
        dots[dataset.title] = [
            figures.Dot(
                row.title, evidence.claim(row).mean_accuracy, *(score_of(evidence, row, level) for level in LEVELS)
            )
            for row in rows
        ]
    systems = [row for row in evidence.rows if row.name in evidence.published.claims]
    context["n_systems"] = len(evidence.published.claims)
    context["n_measured"] = {level: len({row.name for row in systems if row.at(level)}) for level in LEVELS}
    context["not_shown"] = evidence.not_shown
    return context, {"comparison": figures.comparison(dots)}


def _donor_table(evidence: Evidence, dataset: str) -> str | None:
    """Every system's figures by donor; None for a data set without healthy donors to tell apart."""
    lines = []
    for row in evidence.of(dataset):
        if row.group is None or (scores := donor_scores(row.group)) is None:
            continue
        found = scores.summary()
        lines.append(
            (
                row.title,
                show(found["auroc_per_donor"]),
                f"{show(found['specificity_per_donor'])}, {found['worst_specificity']:.3f}",
                f"{show(found['sensitivity_per_subject'])}, {found['worst_sensitivity']:.3f}",
                f"{found['weighted_f1_at_half'].value:.3f}",
                f"{found['counted_donors']}, {found['counted_subjects']}",
            )
        )
    header = (
        "system",
        "AUROC per healthy donor",
        "specificity per donor: mean, worst",
        "sensitivity per ALL subject: mean, worst",
        "weighted F1 at 50 %",
        "healthy donors, ALL subjects",
    )
    return table(header, lines) if lines else None


def _f1_table(evidence: Evidence, dataset: str) -> str:
    averages = ("weighted", "macro")
    lines = [
        (
            row.title,
            claimed_f1(evidence.claim(row)),
            *(score(evidence, row, level, f"{average}_f1") for level in LEVELS for average in averages),
        )
        for row in evidence.of(dataset)
    ]
    for what, values in evidence.baselines.get(dataset, {}).items():
        cells = (show(Interval(**values[f"{average}_f1"])) for average in averages)
        lines.append((f"*{what} alone, no network*", NOTHING, NOTHING, NOTHING, *cells))
    columns = [f"{LEVEL_NAMES[level]}, {average} F1" for level in LEVELS for average in averages]
    return table(("system", "claimed", *columns), lines)


def leaks(evidence: Evidence) -> Page:
    tables, panels, backbones = {}, {}, set()
    header = ("system", "backbone", "first weights", "image-level accuracy", "group-disjoint accuracy", "leak")
    for name, dataset in evidence.published.datasets.items():
        rows = [row for row in evidence.of(name) if row.leak]
        lines = [
            (
                row.recipe.title,
                row.recipe.backbone,
                row.start,
                *(score(evidence, row, level) for level in LEVELS),
                signed(row.leak),
                "; ".join(spread(run.images["train"] for run in m.runs) for m in (row.image, row.group)),
                changes(evidence, row),
            )
            for row in rows
        ]
        tables[name] = table((*header, "images to train on, image-level; group-disjoint", "changed"), lines)
        backbones |= {row.recipe.backbone for row in rows}
        if rows:
            panels[dataset.title] = [(row.title, row.leak) for row in rows]
    return {"tables": tables, "n_backbones": len(backbones)}, {"leak": figures.leak(panels)} if panels else {}


def noise(evidence: Evidence) -> Page:
    """A paper's noise rows in its own layout, then all systems up to the largest sigma."""
    claimed, drawings = [], {}
    for row in evidence.rows:
        if rows := evidence.claim(row).noise:
            tables, drawings[f"noise_{row.name}"] = _claimed_noise(evidence, row, rows)
            claimed.append((row.title, row.start, f"noise_{row.name}", tables))
    everything: dict[str, dict[str, str]] = {}
    floors = {}
    for name in evidence.published.datasets:
        rows = [row for row in evidence.of(name) if row.image or row.group]
        if not rows:
            continue
        everything[name] = {
            LEVEL_NAMES[level]: _noise_table([(row.title, m) for row in rows if (m := row.at(level))])
            for level in LEVELS
        }
        label = (rows[0].group or rows[0].image).label
        floors[name] = float(np.bincount(label).max() / len(label))
        curves = {row.title: {level: _curve(m) for level in LEVELS if (m := row.at(level))} for row in rows}
        drawings[f"noise_{name}"] = figures.noise(curves, floors[name], "most frequent class every time")
    return {"claimed": claimed, "everything": everything, "floors": floors}, drawings


def _claimed_noise(evidence: Evidence, row: Row, claims: Sequence[Noise]) -> tuple[dict[str, Any], Figure]:
    """A table for each official fold and for all, by title, and their figure."""
    by_sigma = {claim.sigma: claim for claim in claims}
    by_sigma[6.0] = by_sigma[8.0]  # the paper's text says 6 where its table says 8
    tables, panels = {}, {}
    for fold in range(len(claims[0].accuracy)):
        m = part(row.image, fold) if row.image and fold in row.image.folds else None
        tables[fold_title(evidence, row, fold, m)] = _beside_claims(m, by_sigma, [fold])
        curve = _curve(m, sorted(by_sigma)) if m else None
        panels[f"fold {fold}"] = (curve, {s: by_sigma[s].accuracy[fold] for s in sorted(by_sigma)})
    if row.image:
        title = f"Folds {', '.join(map(str, row.image.folds))} together"
        tables[title] = _beside_claims(row.image, by_sigma, row.image.folds)
    return tables, figures.claimed_noise(panels, "accuracy")


def _beside_claims(m: Measured | None, by_sigma: dict[float, Noise], folds: Sequence[int]) -> dict[str, Any]:
    """A table of the claims, averaged over the folds, and the measured scores; and how many accuracies are near."""
    lines, near = [], []
    for sigma, claim in sorted(by_sigma.items()):
        line = ["6 (claimed for 8)" if sigma == 6 else f"{sigma:g}"]
        for name, values in (("accuracy", claim.accuracy), ("auroc", claim.auc)):
            theirs = float(np.mean([values[fold] for fold in folds]))
            ours = scores(m, sigma)[name] if m and sigma in m.sigmas else None
            defined = ours is not None and not np.isnan(ours.value)
            line += [f"{theirs:.3f}", show(ours), f"{ours.value - theirs:+.3f}" if defined else NOTHING]
            if name == "accuracy" and defined:
                near.append(abs(ours.value - theirs) <= NEAR)
        lines.append(line)
    columns = [f"{name}, {what}" for name in ("accuracy", "AUC") for what in ("claimed", "image-level", "difference")]
    return {"table": table(("sigma", *columns), lines), "near": sum(near), "rows": len(near)}


def _noise_table(rows: Sequence[tuple[str, Measured]]) -> str:
    sigmas = sorted({sigma for _, m in rows for sigma in m.sigmas})
    lines = [
        (title, *(stacked(scores(m, s)["accuracy"]) if s in m.sigmas else NOTHING for s in sigmas)) for title, m in rows
    ]
    return table(("system", *(f"{sigma:g}" for sigma in sigmas)), lines)


def _curve(m: Measured, sigmas: Sequence[float] | None = None) -> figures.Curve:
    shown = tuple(s for s in m.sigmas if sigmas is None or s in sigmas)
    return figures.Curve(shown, tuple(scores(m, s)["accuracy"] for s in shown))


def ablation(evidence: Evidence) -> Page:
    tables = []
    header = ("", "score", "claimed without", "claimed with", "measured without", "measured with", "difference")
    for row in evidence.rows:
        claim = evidence.claim(row).ablation
        if claim is None:
            continue
        plain = evidence.row(claim.plain, row.initialisation)
        image, group = ((plain.at(level), row.at(level)) for level in LEVELS)
        lines: list[Sequence[str]] = []
        for fold in range(len(claim.accuracy.without)):
            pair = [part(m, fold) if m and fold in m.folds else None for m in image]
            lines += _ablation_lines(f"fold {fold}, image-level", claim, [fold], pair)
        if all(image):
            folds = [fold for fold in image[0].folds if fold in image[1].folds]
            lines += _ablation_lines("folds together, image-level", claim, folds, image)
        lines += _ablation_lines("group-disjoint", claim, [], group)
        settings = [(r.title, changes(evidence, r)) for r in (plain, row) if r.image or r.group]
        noise = [_noise_without_and_with(*pair) for pair in (image, group) if all(pair)]
        tables.append((row.title, row.start, table(header, lines), settings, noise, _cut_short(row, plain)))
    return {"tables": tables, "grey": _greyed(evidence)}, {}


def _greyed(evidence: Evidence) -> dict[str, Any] | None:
    """What `train.shortcut_probes` found without colour, one line for each network that was probed, or None."""
    if not evidence.probes:
        return None
    lines, settings = [], []
    for probed in evidence.probes:
        recipe = Recipe.from_dict(probed["recipe"])
        grey, balance = probed["grey_is_healthy"], recipe.balance
        called = (show(Interval(**grey[f"called_HEM_in_{how}"])) for how in ("colour", "grey"))
        after = {row["probe"]: show(Interval(**row["weighted_f1"])) for row in grey["rows"]}
        clean = show(Interval(**probed["clean"]["weighted_f1"]))
        lines.append((balance, *called, signed(Interval(**grey["difference"])), clean, *after.values()))
        settings.append((balance, recipe.changes_from(evidence.recipes[recipe.name])))
    titles = (row["title"] for row in evidence.probes[0]["grey_is_healthy"]["rows"])
    asked = ("ALL called HEM in colour", "in grey", "difference", "weighted F1 in colour", *titles)
    first = evidence.probes[0]
    return {
        "title": evidence.recipes[first["recipe"]["name"]].title,
        "table": table(("balanced by", *asked), lines),
        "settings": [(name, ", ".join(f"{key} {new}" for key, new in how.items())) for name, how in settings],
        "protocol": first["protocol"],
        "images": first["images"],
    }


def _noise_without_and_with(plain: Measured, full: Measured) -> tuple[str, str]:
    """The protocol's level in words, and accuracy by sigma as a table."""
    lines = [
        (f"{sigma:g}", *(show(scores(m, sigma)["accuracy"]) for m in (plain, full)))
        for sigma in sorted(set(plain.sigmas) & set(full.sigmas))
    ]
    title = "image-level" if plain.level == "image" else "group-disjoint"
    return title, table(("sigma", "accuracy without", "accuracy with"), lines)


def _cut_short(row: Row, plain: Row) -> dict[str, str] | None:
    """What the runs say about a system that was trained for fewer epochs than published; None where it was not."""
    if not (row.image and plain.image and "epochs" in row.image.changes):
        return None
    last = [[curve["eval_loss"] for curve in run.curves if "eval_loss" in curve] for run in row.image.runs]
    best = [1 + int(np.argmin(losses)) for losses in last if losses]
    return {
        "epochs": f"{row.image.changes['epochs']} of {row.recipe.epochs}",
        "accuracy": show(scores(row.image)["accuracy"]),
        "plain_epochs": str(max(run.epochs for run in plain.image.runs)),
        "plain_accuracy": show(scores(plain.image)["accuracy"]),
        "best": " and ".join(map(str, best)),
        "loss": " and ".join(f"{run.curves[-1]['loss']:.2f}" for run in row.image.runs),
        "loss_before": " and ".join(f"{run.curves[len(run.curves) // 2]['loss']:.2f}" for run in row.image.runs),
    }


def _ablation_lines(
    title: str, claim: Ablation, folds: Sequence[int], pair: Sequence[Measured | None]
) -> Iterator[Sequence[str]]:
    """One line per score; claims are averaged over `folds`, of which there are none group-disjoint."""
    for label, change in (("accuracy", claim.accuracy), ("HEM precision", claim.hem_precision), ("AUC", claim.auc)):
        claimed = [
            f"{np.mean([v[f] for f in folds]):.3f}" if folds else NOTHING for v in (change.without, change.with_both)
        ]
        if label == "HEM precision":
            ours = [scores(m)["per_class"]["HEM"]["precision"] if m else None for m in pair]
            difference = None
        else:
            metric = "accuracy" if label == "accuracy" else "auroc"
            ours = [scores(m)[metric] if m else None for m in pair]
            difference = measured.paired(pair[1], pair[0], metric) if all(pair) else None
        yield (title, label, *claimed, *map(show, ours), signed(difference))
        title = ""


def classes(evidence: Evidence) -> Page:
    sections = {}
    for name in evidence.published.datasets:
        sections[name] = [
            (
                row.title,
                row.start,
                changes(evidence, row),
                [
                    (protocol_title(m), _class_table(m, evidence.claim(row).per_class_f1))
                    for m in (row.image, row.group)
                    if m
                ],
            )
            for row in evidence.of(name)
            if row.image or row.group
        ]
    return {"sections": sections}, {}


def _class_table(m: Measured, claimed: dict[str, float]) -> str:
    report = scores(m)
    names = m.first.label_names
    lines = []
    for name, counts in zip(names, report["confusion_matrix"], strict=True):
        entry = report["per_class"][name]
        claim = [f"{claimed[name]:.2f}"] if claimed else []
        values = [show(entry[what]) for what in ("precision", "recall", "f1")]
        lines.append([name, *claim, *values, f"{entry['support']:,}", *(f"{count:,}" for count in counts)])
    header = ["class", *(["claimed F1"] if claimed else []), "precision", "recall", "F1", "images"]
    return table([*header, *(f"called {name}" for name in names)], lines)


def curves(evidence: Evidence) -> Page:
    entries, drawings = [], {}
    for row in evidence.rows:
        if row.image or row.group:
            panels = {
                level: (f"{LEVEL_NAMES[level]}, {protocol}", [run.curves for run in m.runs] if m else [])
                for level, m, protocol in (("image", row.image, row.recipe.protocol), ("group", row.group, HONEST))
                if level == "group" or row.recipe.paper
            }
            name = f"curves_{row.name}_{row.initialisation}"
            drawings[name] = figures.curves(panels)
            entries.append((row.title, row.start, changes(evidence, row), name))
    return {"entries": entries}, drawings


def pairs(evidence: Evidence) -> Page:
    context: dict[str, Any] = {"summaries": {}, "tables": {}, "n_pairs": {}}
    for name in evidence.published.datasets:
        rows = [row for row in evidence.of(name) if row.group and row.group.complete]
        lines = []
        counts = {row.title: [0, 0, 0] for row in rows}  # better, no difference, worse
        for a, b in combinations(rows, 2):
            difference = measured.paired(a.group, b.group)
            if difference is not None:
                lines.append((a.title, b.title, signed(difference), better(a.title, b.title, difference)))
                place = 1 + (difference.high < 0) - (difference.low > 0)
                counts[a.title][place] += 1
                counts[b.title][2 - place] += 1
        best_first = sorted(rows, key=lambda row: -scores(row.group)["accuracy"].value)
        context["summaries"][name] = table(
            ("system", "group-disjoint accuracy", "better than", "no difference shown", "worse than"),
            [(r.title, score(evidence, r, "group"), *map(str, counts[r.title])) for r in best_first if lines],
        )
        context["tables"][name] = table(("first", "second", "first minus second", "reading"), lines)
        context["n_pairs"][name] = len(lines)
    return context, {}


def cost(evidence: Evidence) -> Page:
    timed = evidence.latency.get("systems", {})
    kinds = sorted({kind for values in timed.values() for kind in values if kind.endswith("_ms")})
    header = ("system", "input", "parameters", "claimed", "multiply-adds", *map(latency_name, kinds))
    tables, panels = {}, {}
    for name, dataset in evidence.published.datasets.items():
        lines = []
        points: dict[str, list[Any]] = {}
        for row in evidence.of(name):
            m = row.group or row.image
            if m is None:
                continue
            run, times, claim = m.first, timed.get(row.name, {}), evidence.claim(row)
            lines.append(
                (
                    row.title,
                    f"{run.image_size} px",
                    f"{run.parameters / 1e6:.2f} M",
                    f"{claim.parameters / 1e6:g} M" if claim.parameters else NOTHING,
                    f"{run.multiply_adds / 1e9:.2f} G",
                    *(f"{times[kind]:.1f}" if kind in times else NOTHING for kind in kinds),
                    *(score(evidence, row, level) for level in LEVELS),
                )
            )
            costs = {"parameters (millions)": run.parameters / 1e6}
            costs["multiply-adds per image (billions)"] = run.multiply_adds / 1e9
            costs |= {f"{latency_name(kind)} per image": times[kind] for kind in kinds[:1] if kind in times}
            values = [scores(each)["accuracy"] if each else None for each in (row.image, row.group)]
            for axis, x in costs.items():
                points.setdefault(axis, []).append((row.title, round(x, 4), *values))
        tables[name] = table((*header, *(f"{LEVEL_NAMES[level]} accuracy" for level in LEVELS)), lines)
        if points:
            panels[dataset.title] = points
    context = {"tables": tables, "machine": evidence.latency.get("machine"), "drawn": bool(panels)}
    return context, {"cost": figures.cost(panels)} if panels else {}


def claims(evidence: Evidence) -> Page:
    header = ("system", "figure", "claimed", "measured, image-level", "reading", "measured, group-disjoint")
    papers = []
    for name, paper in evidence.published.papers.items():
        rows = [row for row in evidence.rows if row.name in paper.systems and row.as_published]
        lines = [line for row in rows for line in _claim_lines(row, evidence.claim(row))]
        settings = [(row.title, changes(evidence, row)) for row in rows if row.image or row.group]
        papers.append((name, paper, table(header, lines), settings))
    return {"papers": papers}, {}


def _claim_lines(row: Row, claim: Claim) -> Iterator[Sequence[str]]:
    """One line per figure that a paper prints about a system."""
    title = row.title
    for label, claimed, image, group in _claimed_figures(row, claim):
        ours = [show(value) if value else missing(row, level) for level, value in (("image", image), ("group", group))]
        if label.startswith("accuracy, fold"):
            ours[1] = NOTHING  # official folds are the image-level protocol's
        text = claimed if isinstance(claimed, str) else f"{claimed:.6g}"
        yield (title, label, text, ours[0], reading(claimed, image), ours[1])
        title = ""


def _claimed_figures(row: Row, claim: Claim) -> Iterator[tuple[str, float | str, Interval | None, Interval | None]]:
    """Each claimed figure with ours: what it is, the claim, image-level, group-disjoint."""
    two = row.recipe.dataset == "cnmc2019"

    def ours(name: str) -> list[Interval | None]:
        return [scores(m)[name] if m else None for m in (row.image, row.group)]

    def of_all(name: str) -> list[Interval | None]:
        return [scores(m)["per_class"]["ALL"][name] if m else None for m in (row.image, row.group)]

    accuracy = claim.printed.get("accuracy") if claim.accuracy is None else claim.accuracy
    if accuracy is not None:
        yield "accuracy", accuracy, *ours("accuracy")
    for fold, value in enumerate(claim.accuracy_by_fold or ()):
        ran = row.image is not None and fold in row.image.folds
        yield f"accuracy, fold {fold}", value, scores(part(row.image, fold))["accuracy"] if ran else None, None
    if claim.macro_f1 is not None:
        yield "macro F1", claim.macro_f1, *ours("macro_f1")
    if claim.precision is not None and two:
        yield "precision (ours: of ALL)", claim.precision, *of_all("precision")
    if claim.recall is not None:
        # Recall averaged by the classes' numbers of images is accuracy.
        yield (
            ("recall (ours: of ALL)", claim.recall, *of_all("recall"))
            if two
            else (
                "recall (ours: weighted)",
                claim.recall,
                *ours("accuracy"),
            )
        )
    f1 = claim.printed.get("f1") if claim.f1 is None else claim.f1
    if f1 is not None:
        yield "F1 (ours: weighted)", f1, *ours("weighted_f1")


PAGES = {
    "README": comparison,
    "LEAK": leaks,
    "NOISE": noise,
    "ABLATION": ablation,
    "CLASSES": classes,
    "CURVES": curves,
    "PAIRS": pairs,
    "COST": cost,
    "CLAIMS": claims,
}
