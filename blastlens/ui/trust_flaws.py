"""What becomes of a model's answers as images get worse, as `robustness` in metrics.json records it. Pure HTML."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..metrics import Interval
from ..noise import MAX_SIGMA
from ..wording import count, percent
from .plots import Series, legend, small_chart
from .trust_values import level, plain, points, rows_table, score, share, signed
from .words import MEANINGS, by_family, term

Record = Mapping[str, Any]


def flaws_html(record: Record) -> str:
    """Every kind of flaw at its five severities: small charts by family, a summary, and all figures in a table."""
    kinds = {kind["kind"]: kind for kind in record["kinds"]}
    baseline = record["baseline"]
    families = by_family(kinds)
    y_range = _y_range(record)
    charts = "".join(
        f'<div class="family"><h3>{escape(family)}</h3><div class="smalls" style="--many:{len(names)}">'
        + "".join(_chart(kinds[name], record["clean"], baseline, y_range) for name in names)
        + "</div></div>"
        for family, names in families.items()
    )
    charts = f'<div class="families">{charts}</div>'
    opening = (
        f"<p>{count(record['images'], 'image')} of {count(record['groups'], 'group')} that the measured network had "
        f"never seen were spoiled in {count(len(kinds), 'way')}, each in five steps, the "
        f"{_term('severity', 'severities')}, and asked again. Each chart runs from the image as it is (0) to the worst "
        f"step (5). The height is the {term('weighted F1')}, the band its {term('95 % interval')}. "
        f"The second line is <em>{escape(baseline['name'])}</em>, without any network, on the same spoiled images."
        "</p>"
    )
    names = ["this model's recipe", f"{baseline['name']}, no network"]
    ordered = [kinds[name] for some in families.values() for name in some]
    return f"{opening}{_summary(record, kinds)}{legend(names)}{charts}{_table(record, ordered)}"


def headline(record: Record) -> tuple[str, str]:
    """What is left of the score under the flaw that leaves least of it at its strongest, and in words of what."""
    worst = min(record["kinds"], key=lambda kind: kind["severities"][-1]["weighted_f1"]["value"])
    last = worst["severities"][-1]
    left = score(last["weighted_f1"])
    lost = score(last["lost"])
    figure = "not known" if left is None else f"{left.value:.2f}"
    by = "" if lost is None else f" ({signed(-lost.value)} points)"
    return figure, f"weighted F1 under the worst flaw, {_lower(worst['title'])}, at its strongest{by}"


def _worst(record: Record) -> Record:
    named = record["summary"]["worst_kind"]
    return next(kind for kind in record["kinds"] if named in (kind["kind"], kind["title"]))


def _summary(record: Record, kinds: Mapping[str, Record]) -> str:
    summary = record["summary"]
    worst = _worst(record)
    items = [
        f"Worst over all its steps is <em>{escape(_lower(worst['title']))}</em>: at the strongest the weighted F1 "
        f"moves by {points(worst['severities'][-1]['lost'], -1)} points of a hundred.",
        f"Over all flaws and steps it is {plain(summary['mean_weighted_f1'])} on average, beside "
        f"{plain(record['clean']['weighted_f1'])} on the same images unspoiled; {share(summary['mean_flip_rate'])} of "
        f"answers flip ({term('flip rate')}), and stated probabilities are off by {share(summary['mean_ece'])} "
        f"({term('calibration error')}).",
    ]
    if score(summary["mce"]):
        items.append(
            f"{term('mean corruption error')} against {escape(record['baseline']['name'])}: {plain(summary['mce'])}."
            f"{_relative(summary)}"
        )
    if "gaussian_noise" in kinds:
        items.append(_noise(summary))
    return f"<ul>{''.join(f'<li>{text}</li>' for text in items)}</ul>"


def _relative(summary: Record) -> str:
    if score(summary["relative_mce"]) is None:
        return ""
    over = count(summary["relative_mce_kinds"], "flaw that harms", "flaws that harm")
    return (
        f" Counting only the errors that flaws add, of both, over the {over} it too: {plain(summary['relative_mce'])}."
    )


def _noise(summary: Record) -> str:
    told = []
    for key, lost in (("sigma_minus_1", "one point"), ("sigma_minus_5", "five points")):
        sigma = summary[key]
        where = f"nowhere up to {MAX_SIGMA:g}" if sigma is None else f"at about {sigma:.3g}"
        told.append(f"{lost} {where}")
    return f"With noise it loses, by its {term('sigma')}: {', '.join(told)}, read off between the levels measured."


def _chart(kind: Record, clean: Record, baseline: Record, y_range: tuple[float, float]) -> str:
    steps: Sequence[Record] = kind["severities"]
    rows = [(0, score(clean["weighted_f1"])), *((one["severity"], score(one["weighted_f1"])) for one in steps)]
    known: list[tuple[float, Interval]] = [(x, one) for x, one in rows if one is not None]
    series = [
        Series(
            "this model's recipe",
            [x for x, _ in known],
            [one.value for _, one in known],
            [one.low for _, one in known],
            [one.high for _, one in known],
        ),
        Series(
            baseline["name"],
            [0, *(one["severity"] for one in steps)],
            [1 - baseline["clean_error"], *(1 - one["baseline_error"] for one in steps)],
        ),
    ]
    lost = [score(one["lost"]) for one in steps]
    ends = [
        f"{signed(-one.value)} at {step['severity']} ({_level(step, kind)})"
        for step, one in ((steps[0], lost[0]), (steps[-1], lost[-1]))
        if one is not None
    ]
    described = f"{', '.join(ends)}" if ends else "not measured"
    return small_chart(series, title=kind["title"], x_range=(0, len(steps)), y_range=y_range, description=described)


def _y_range(record: Record) -> tuple[float, float]:
    """From a round number below every line to 1, the same for all charts."""
    steps = [one for kind in record["kinds"] for one in kind["severities"]]
    lows = [found.low for one in steps if (found := score(one["weighted_f1"]))]
    lows += [1 - one["baseline_error"] for one in steps]
    return max(0.0, int(10 * min(lows, default=0.0)) / 10), 1.0


def _table(record: Record, kinds: Sequence[Record]) -> str:
    steps = [one["severity"] for one in kinds[0]["severities"]]
    head = ["flaw", *(f"severity {step}" for step in steps), "answers flipped at the last", "corruption error"]
    rows = [
        [
            f'{escape(kind["title"])} <span class="quiet">{escape(_levels(kind))}</span>',
            *(points(one["lost"], -1) for one in kind["severities"]),
            share(kind["severities"][-1]["flip_rate"]),
            plain(kind["ce"]),
        ]
        for kind in kinds
    ]
    caption = (
        f"Change of weighted F1, in points of a hundred, with 95 % intervals; {record['protocol']}, "
        f"{percent(1 / record['every'])} of the images"
    )
    explained = "".join(
        f"<div><dt>{escape(kind['title'])}</dt><dd>{escape(kind['explanation'])} Severities: {escape(kind['source'])}."
        f"</dd></div>"
        for kind in kinds
    )
    return (
        rows_table(caption, head, rows, "numbers", folded="Every flaw in numbers")
        + f"<details><summary>What each flaw is</summary><dl>{explained}</dl>"
        + f"<p>{escape(record['baseline']['what'])}</p></details>"
    )


def _levels(kind: Record) -> str:
    unit = f" {kind['unit']}" if kind["unit"] else ""
    return _both(kind) + ", ".join(level(one["level"], "") for one in kind["severities"]) + unit


def _level(step: Record, kind: Record) -> str:
    """How strong a step is; both ways where a flaw goes both ways, of which the figure is the mean."""
    return _both(kind) + level(step["level"], kind["unit"])


def _both(kind: Record) -> str:
    return "\N{PLUS-MINUS SIGN}" if kind["both_ways"] else ""


def _lower(title: str) -> str:
    """A title inside a sentence; JPEG stays as it is."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def _term(word: str, shown: str) -> str:
    """A glossary word in another form."""
    return term(shown, MEANINGS[word])
