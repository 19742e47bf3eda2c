"""Whether probabilities can be believed, and what can be decided by them, as `calibration` in metrics.json records it.

Pure HTML: calibration, the operating point, prediction sets, and silence where a model is unsure.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..wording import count, percent
from .plots import Series, line_chart
from .trust_values import plain, rows_table, score, share
from .words import MEANINGS, term

Record = Mapping[str, Any]


def calibration_html(record: Record) -> str:
    """How far stated probabilities are off, before and after calibration, and with noise."""
    before = record.get("before") or {}
    names = {
        "ece": term("over all answers", MEANINGS["calibration error"]),
        "classwise_ece": term(
            "for each label",
            "The same for each label, whether or not it was the answer, averaged over the labels. Here errors in "
            "opposite directions do not cancel out.",
        ),
    }
    rows = [
        [names[key], share(before[key]) if before.get(key) else "", share(record[key])]
        for key in names
        if score(record.get(key))
    ]
    table = rows_table(
        "How far stated probabilities are off on average, on groups of images it never saw",
        ["calibration error", "by a temperature alone", "as served"],
        rows,
        "numbers",
    )
    chart = _by_sigma(record.get("by_sigma") or (), names=("ece", "classwise_ece"))
    return (
        "<p>Of answers given at 90 %, nine in ten should be right. The network's scores become probabilities by "
        f"{escape(record['scaling'])}.</p>{_pair(table, chart)}"
    )


def _by_sigma(rows: Sequence[Record], names: Sequence[str]) -> str:
    words = {"ece": "over all answers", "classwise_ece": "for each label"}
    series = [one for name in names if (one := _series(words[name], rows, name))]
    if not series or len(series[0].xs) < 2:
        return ""
    top = max(max(one.highs or one.ys) for one in series)
    return line_chart(
        series,
        x_label="noise (sigma)",
        y_label="calibration error",
        x_range=(0, max(series[0].xs)),
        y_range=(0, max(0.1, 1.05 * top)),
        description=f"{_ends(series[0])} (sigma {max(series[0].xs):g}).",
    )


def _series(name: str, rows: Sequence[Record], key: str) -> Series | None:
    """A figure against sigma, with its band; what could not be computed is left out."""
    there = [(row["sigma"], found) for row in rows if (found := score(row.get(key)))]
    if not there:
        return None
    return Series(
        name,
        [sigma for sigma, _ in there],
        [one.value for _, one in there],
        [one.low for _, one in there],
        [one.high for _, one in there],
    )


def _ends(one: Series) -> str:
    name = one.name[:1].upper() + one.name[1:]
    return f"{name}: {percent(one.ys[0], 1)} without noise, {percent(one.ys[-1], 1)} with the most"


def operating_html(record: Record) -> str:
    """What the threshold that finds most of the leukemic images costs in false alarms."""
    plainly = record["plain"]
    rows = [
        ["the more probable label", share(plainly["sensitivity"]), share(plainly["specificity"])],
        [
            "leukemic from such a threshold on",
            share(record["sensitivity"]),
            share(record["specificity"]),
        ],
    ]
    table = rows_table(
        "Of leukemic images found, and of healthy ones left alone, on groups of images it never saw",
        ["called by", "sensitivity", "specificity"],
        rows,
        "numbers",
    )
    series = [one for key in ("sensitivity", "specificity") if (one := _series(key, record.get("by_sigma") or (), key))]
    chart = ""
    if series and len(series[0].xs) > 1:
        chart = line_chart(
            series,
            x_label="noise (sigma)",
            y_label="share",
            x_range=(0, max(series[0].xs)),
            y_range=(0, 1),
            description=f"{'. '.join(_ends(one) for one in series)}.",
        )
    return (
        f"<p>A screen should miss few. So its {term('operating point')} was set to find at least "
        f"{percent(record['target'])} of the leukemic images ({escape(record['how'])}), and then tried on "
        f"groups it was not set with{_of_folds(record)}. The price is in the last column: "
        f"{term('specificity')}.</p>{_pair(table, chart)}"
    )


def _of_folds(record: Record) -> str:
    """Which thresholds were tried, and which one is used."""
    tried = record.get("of_folds")
    used = f"the page uses {percent(record['threshold'], 1)}, set with all of them"
    if not tried:
        return f"; {used}"
    return f" (thresholds from {percent(min(tried), 1)} to {percent(max(tried), 1)}; {used})"


def sets_html(record: Record) -> str:
    """Whether the sets hold the true label as often as asked, and how large they are."""
    asked = percent(record["asked"])
    verdict = (
        ("kept", "In tests no label fell clearly short.")
        if record["holds"]
        else ("broken", "In tests a label fell short.")
    )
    rows = [[f"{escape(label)}", share(found)] for label, found in (record.get("coverage_by_class") or {}).items()]
    table = rows_table(
        f"How often the set held the true label, where {asked} was asked for",
        ["true label", "in the set"],
        [["all", share(record["coverage"])], *rows],
        "numbers",
    )
    size = (
        f"<p>A set has {plain(record['mean_size'])} labels on average; {share(record['single'])} of them are a single "
        "label, which is an answer.</p>"
    )
    return (
        f"<p>Asked to be right {asked} of the time, a model may have to name more than one label: a "
        f"{term('prediction set')} (by {escape(record['method'])}). {_badge(*verdict)} {escape(record['why'])}</p>"
        f"{table}{size}{_worst_group(record.get('worst_group'))}{_sets_by_sigma(record.get('by_sigma') or ())}"
    )


def _worst_group(worst: Record | None) -> str:
    if not worst:
        return ""
    return (
        f"<p>It is an average over many groups, not a promise for each: of {count(worst['images'], 'image')} of "
        f"{escape(str(worst['group']))} ({escape(worst['label'])}), {percent(worst['coverage'], 1)} had the true label "
        "in their set.</p>"
    )


def _sets_by_sigma(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    cells = [[f"{row['sigma']:g}", share(row["coverage"]), plain(row["mean_size"])] for row in rows]
    head = ["noise (sigma)", "true label in the set", "labels in a set"]
    return rows_table("Prediction sets as noise grows", head, cells, "numbers", folded="Prediction sets with noise")


def silence_html(record: Record) -> str:
    """How many of its answers are wrong where it may keep the least sure ones to itself."""
    rows = record["risk_coverage"]
    series = Series("wrong answers", [row["coverage"] for row in rows], [row["risk"] for row in rows])
    half = min(rows, key=lambda row: abs(row["coverage"] - 0.5))
    full = max(rows, key=lambda row: row["coverage"])
    top = max(0.1, 1.1 * max(series.ys))
    chart = line_chart(
        [series],
        x_label="share of images it answers, the surest first",
        y_label="of these, wrong",
        x_range=(0, 1),
        y_range=(0, min(1, top)),
        description=(
            f"Answering every image, it errs on {percent(full['risk'], 1)} of them; answering the surest "
            f"{percent(half['coverage'])}, on {percent(half['risk'], 1)}."
        ),
        percent_across=True,
    )
    whole = f"<p>Area under this curve: {plain(record['aurc'], 3)}.</p>" if score(record.get("aurc")) else ""
    return f"<p>A model that may say <em>I am not sure</em> errs less on what is left.</p>{chart}{whole}"


def _pair(table: str, chart: str) -> str:
    return f'<div class="trust-pair"><div>{table}</div>{chart}</div>' if chart else table


def _badge(kind: str, text: str) -> str:
    return f'<strong class="outcome {kind}">{escape(text)}</strong>'
