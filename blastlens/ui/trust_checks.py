"""What could have refuted a model: shortcut probes, whole people, and the input check. Pure HTML.

From `probes` and `patients` in metrics.json, and `measured` in gate.json.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..ood_detection import STATISTICS
from ..wording import count, percent
from .plots import Row, Series, interval_rows, line_chart
from .trust_values import level, plain, points, rows_table, score, share
from .words import term

Record = Mapping[str, Any]

# Groups of strangers as `train.ood_test_images` calls them, in words.
STRANGERS = {
    "photos": "everyday photographs",
    "bccd_fields": "smear fields of another data set",
    "aria2021": "smear fields of the 4-class set",
    "cnmc2019": "single cells of C-NMC 2019",
}


def probes_html(record: Record) -> str:
    """One card for each probe: what was done, what should come of it, and what did."""
    rows: Sequence[Record] = record["rows"]
    opening = (
        f"<p>A model can be right for the wrong reason, by a {term('shortcut')}. Each probe changes something that "
        "should not matter, and the score should stay; or takes away what should matter, and the score should go. What "
        "counts as passed was written down before anybody looked.</p>"
    )
    parts = []
    for expect, title in (
        ("keeps", "Should not matter: the score should stay"),
        ("loses", "Should matter: the score should go"),
    ):
        some = [row for row in rows if row["expect"] == expect]
        if some:
            parts.append(f'<h3>{title}</h3><ul class="probes">{"".join(_probe(row) for row in some)}</ul>')
    return f"{opening}{''.join(parts)}{_without_network(record)}{_grey(record.get('grey_is_healthy'))}"


def passed(record: Record) -> tuple[str, str]:
    """How many probes were passed, and which were not."""
    rows = record["rows"]
    failed = [_lower(row["title"]) for row in rows if not row["passed"]]
    told = "shortcut probes passed" + (f"; not: {', '.join(failed)}" if failed else "")
    return f"{len(rows) - len(failed)} of {len(rows)}", told


def _probe(row: Record) -> str:
    kind, word = ("kept", "passed") if row["passed"] else ("broken", "failed")
    limit = (
        f"may lose at most {_points(row['limit'])} points"
        if row["expect"] == "keeps"
        else f"AUROC {plain(row['auroc'])}, at most {row['limit']:.2f}"
    )
    title = f'<b>{escape(row["title"])}</b> <strong class="outcome {kind}">{word}</strong>'
    found = f"Weighted F1 {plain(row['weighted_f1'])}, {points(row['difference'], decimals=2)} points; {limit}."
    why = f"<details><summary>Why this limit</summary><p>{escape(row['reason'])}</p></details>"
    told = f'<p>{escape(row["what"])}</p><p class="quiet">{found}</p>{why}'
    return f'<li class="{kind}"><p class="title">{title}</p>{told}</li>'


def _points(limit: float) -> str:
    return f"{100 * abs(limit):.3g}"


def _without_network(record: Record) -> str:
    rows = [
        [escape(one["name"]), plain(one["weighted_f1"]), plain(one["balanced_accuracy"]), plain(one["auroc"])]
        for one in record.get("without_network") or ()
    ]
    if not rows:
        return ""
    head = ["from", "weighted F1", "balanced accuracy", "AUROC"]
    return rows_table("What a few numbers reach without any network, on the same images", head, rows, "numbers")


def _grey(found: Record | None) -> str:
    if not found:
        return ""
    return (
        f"<p>Does grey mean healthy to it? Of leukemic cells it calls {share(found['called_HEM_in_colour'])} healthy "
        f"in colour and {share(found['called_HEM_in_grey'])} once their colour is taken away: a difference of "
        f"{points(found['difference'])} points, {_points(found['limit'])} at most "
        f'<strong class="outcome {"kept" if found["passed"] else "broken"}">'
        f"{'passed' if found['passed'] else 'failed'}</strong></p>"
    )


# People


def patients_html(record: Record) -> str:
    """Every person with the mean over their images, and how often the rule was right about people."""
    people: Sequence[Record] = record["patients"]
    threshold = record["threshold"]
    labels = list(dict.fromkeys(one["label"] for one in people))
    figures = (
        f"<ul><li>{term('sensitivity')}, of people: {share(record['sensitivity'])}; {term('specificity')}: "
        f"{share(record['specificity'])}; {term('AUROC')} {plain(record['auroc'])}.</li>"
        f"<li>{_undecided(record, len(people))}</li>"
        f"{_people_without_network(record.get('without_network') or ())}"
        f"<li>{escape(_smallest(people))}</li></ul>"
    )
    charts = "".join(
        f"<div><h3>Truly {escape(label)}</h3>{_people(people, label, number, threshold)}</div>"
        for number, label in enumerate(labels)
    )
    head = ["person", "truly", "images", "mean probability of leukemia", "called"]
    rows = [
        [
            escape(str(one["group"])),
            escape(one["label"]),
            f"{one['images']:,}",
            _mean(one),
            escape(one["called"]),
        ]
        for one in people
    ]
    table = rows_table("Every person", head, rows, "numbers", folded=f"All {len(people)} in numbers")
    return (
        f"<p>A clinician does not ask about a cell but about a person. {escape(record['rule'])} Everybody "
        f"was tried with a threshold chosen on others{_others(record)}; the one drawn, {percent(threshold, 1)}, is "
        f"chosen on all, for use. With so few people the intervals are wide.</p>{figures}"
        f'<div class="trust-pair">{charts}</div>{table}'
        f'<div class="trust-pair">{_how_many(record.get("by_cells") or ())}{_noise(record.get("by_sigma") or ())}</div>'
    )


def _others(record: Record) -> str:
    tried = record.get("of_folds")
    return f" ({percent(min(tried), 1)} to {percent(max(tried), 1)})" if tried else ""


def people_line(record: Record) -> tuple[str, str]:
    """How many people were called right."""
    people = record["patients"]
    right = sum(one["right"] for one in people)
    told = f"people called right from all their images; {record['undecided']} of them all are too close to call"
    return f"{right} of {len(people)}", told


def _undecided(record: Record, people: int) -> str:
    of = count(people, "person", "people")
    told = f"Of {escape(str(record['undecided']))} of {of} the interval holds the threshold: it cannot decide."
    rest = record.get("decided")
    if not rest:
        return told
    return (
        f"{told} Of the other {escape(str(rest['people']))}: sensitivity {share(rest['sensitivity'])}, specificity "
        f"{share(rest['specificity'])}."
    )


def _people_without_network(rows: Sequence[Record]) -> str:
    return "".join(
        f"<li>The same from <em>{escape(one['name'])}</em>, without any network: sensitivity "
        f"{share(one['sensitivity'])}, specificity {share(one['specificity'])}, AUROC {plain(one['auroc'])}.</li>"
        for one in rows
    )


def _smallest(people: Sequence[Record]) -> str:
    fewest, most = (f(one["images"] for one in people) for f in (min, max))
    return f"There are {fewest:,} to {most:,} images of each: the fewer, the less their mean says."


def _people(people: Sequence[Record], label: str, number: int, threshold: float) -> str:
    some = sorted((one for one in people if one["label"] == label), key=lambda one: -one["mean"])
    rows = [
        Row(
            str(one["group"]),
            one["mean"],
            one["mean"] if one["low"] is None else one["low"],
            one["mean"] if one["high"] is None else one["high"],
            kind=number % 2,
            hollow=one["called"] != label,
            remark=one["called"],
        )
        for one in some
    ]
    right = sum(not row.hollow for row in rows)
    described = (
        f"{right} of {len(rows)} surely called {label} (filled). From left to right: the mean probability of leukemia "
        f"over all images of a person, 0 to {percent(1)}, with its interval; the line is the threshold."
    )
    return interval_rows(rows, threshold=threshold, description=described)


def _mean(one: Record) -> str:
    return share({"value": one["mean"], "low": one["low"], "high": one["high"]})


def _how_many(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    cells = [[f"{row['cells']:,}", share(row["sensitivity"]), share(row["specificity"])] for row in rows]
    head = ["images of each person", "sensitivity", "specificity"]
    return rows_table("How many images of a person it takes", head, cells, "numbers")


def _noise(rows: Sequence[Record]) -> str:
    series = [
        Series(key, [row["sigma"] for row, _ in there], *([getattr(one, end) for _, one in there] for end in _ENDS))
        for key in ("sensitivity", "specificity")
        if len(there := [(row, one) for row in rows if (one := score(row.get(key)))]) > 1
    ]
    if not series:
        return ""
    return line_chart(
        series,
        x_label="noise (sigma)",
        y_label="share of people",
        x_range=(0, max(series[0].xs)),
        y_range=(0, 1),
        description=f"People called right as noise grows to sigma {level(max(series[0].xs), '')}.",
    )


_ENDS = ("value", "low", "high")


# The input check

_KINDS_OF_IMAGE = {
    "strangers": "What it should turn away",
    "varied": (
        "What it should let in: its kind as another microscope or camera may give it, imitated as in setting the check"
    ),
    "spoilt": "Images of its kind made hard to tell: no promise either way",
}


def gate_html(measured: Record) -> str:
    """How often the input check turns its own kind away, and how many strangers of each kind it catches."""
    own = measured["held_out"]
    worst = own.get("worst_group")
    told = (
        "<p>Before it answers, a few measurements of an image, and the network's own features where it has kept some, "
        f"are held against the training images. {percent(own['rate'], 1)} of {own['images']:,} images of its own "
        "kind, of groups it never saw, were turned away by mistake"
    )
    told += (
        f"; in the worst group, {escape(str(worst['group']))}, {percent(worst['rate'], 1)} of {worst['images']:,}.</p>"
        if worst
        else ".</p>"
    )
    parts = [told]
    for key, title in _KINDS_OF_IMAGE.items():
        some = measured.get(key) or {}
        if some:
            rows = [_stranger(name, found) for name, found in some.items()]
            parts.append(rows_table(title, ["kind of image", "turned away", "images"], rows, "numbers rates"))
    return f"{''.join(parts)}{_wrong(measured)}"


def _wrong(measured: Record) -> str:
    """The images that it was wrong about, by name, as far as they are recorded."""
    found = [("turned away by mistake", one) for one in measured["held_out"].get("wrong") or ()]
    found += [
        (f"not noticed ({STRANGERS.get(name, name)})", one)
        for name, kind in (measured.get("strangers") or {}).items()
        for one in kind.get("wrong") or ()
    ]
    rows = [
        [
            f'<span class="name">{escape(str(one["image"]))}</span>',
            escape(what),
            escape("; ".join(map(_reason, one["reasons"])) or "-"),
        ]
        for what, one in found
    ]
    head = ["image", "what went wrong", "for these reasons"]
    return rows_table("Images it was wrong about", head, rows, folded="Images it was wrong about") if rows else ""


def _reason(name: str) -> str:
    """A reason in words; of held-out images, gate.json records only the name of the check."""
    return STATISTICS[name].meaning if name in STATISTICS else "the network's features" if name == "features" else name


def caught(measured: Record) -> tuple[str, str]:
    """Of strangers, the share that was turned away, and of its own kind."""
    strangers = (measured.get("strangers") or {}).values()
    images, refused = (sum(found[key] for found in strangers) for key in ("images", "refused"))
    mistaken = percent(measured["held_out"]["rate"], 1)
    own = f"of images of another kind turned away; of its own kind, by mistake, {mistaken}"
    return (percent(refused / images, 1) if images else "not known"), own


def _stranger(name: str, found: Record) -> list[str]:
    rate = found["refused"] / found["images"] if found["images"] else 0.0
    return [
        escape(STRANGERS.get(name, name.replace("_", " "))),
        f'<span class="rate" style="--share:{100 * rate:.1f}%">{percent(rate, 1)}</span>',
        f"{found['images']:,}",
    ]


def _lower(title: str) -> str:
    return title if title[:2].isupper() else title[:1].lower() + title[1:]
