"""One pass of a model over many images, and its results as rows: for JSON, for CSV, and for the tables on the page."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from .. import external_result
from ..classifier import Classifier, suggesting
from ..errors import BlastlensError
from ..image_sources import LONGEST_RUN_S, Source, list_sources
from ..images import ImageSource
from ..metrics import Interval
from ..noise import checked_seed, checked_sigma
from ..patients import CAVEAT, Answer, Patient, by_patient, leukemic_labels
from ..predictions import DISCLAIMER, Prediction
from ..subject_tables import folder_subject
from ..wording import listed
from .model_registry import provenance

NOT_NAMED = "not named"
_REJECTED = (
    "{number} of {of} images do not look like the training images of this model; their predictions are unreliable, and "
    "are included in the figures by patient."
)
_TOO_LONG = f"was left out, since the run took over {LONGEST_RUN_S // 60} minutes; upload the rest in parts."


@dataclass(frozen=True)
class Answered:
    """The prediction for one image of the run."""

    name: str
    subject: str | None
    prediction: Prediction


class BatchRun:
    """One pass of a model over images. It is filled while `steps` goes on, and keeps what was done if it is stopped.

    Attributes:
        sources: the images; dropped when the run is over, and with them an open zip.
        total, done: number of images, and of those tried so far.
        answered, failures: so far; failures are name and reason.
        notes: remarks on the files.
        seconds: taken so far.
        stopped: set from outside, ends the steps.
    """

    def __init__(
        self,
        classifier: Classifier,
        paths: Sequence[str],
        sigma: float,
        seed: int = 0,
        others: Iterable[Classifier] = (),
        prevalence: float | None = None,
        by_folder: bool = False,
    ) -> None:
        """List the images; `others` are models to suggest for rejected ones. With `by_folder`, an image whose patient
        neither a table nor its name states belongs to the patient that its folder is named after.

        Raises:
            BlastlensError: no images, too many, or an invalid argument.
        """
        self.classifier, self.folder, self.others = classifier, classifier.folder, tuple(others)
        self.sigma, self.seed = checked_sigma(sigma), checked_seed(seed)
        self.prevalence = classifier.assumed(prevalence)
        listing = list_sources(paths)
        if not listing.sources:
            reason = f" {listing.refused[0][1]}" if listing.refused else ""
            raise BlastlensError(f"There is no image among these files.{reason}")
        self.sources: tuple[Source, ...] = listing.sources
        if by_folder:
            self.sources = tuple(replace(one, subject=one.subject or folder_subject(one.name)) for one in self.sources)
        self.notes, self.failures = listing.notes, list(listing.refused)
        self.answered: list[Answered] = []
        self.total, self.done, self.seconds, self.stopped = len(listing.sources), 0, 0.0, False

    @property
    def finished(self) -> bool:
        """Whether every image has been tried."""
        return self.done == self.total

    def steps(self) -> Iterator[None]:
        """Classify the images, one with each step."""
        start = time.perf_counter()
        images = cast(Iterable[ImageSource], self.sources)  # each has a name and can be read, as a file does
        outcomes = self.classifier.predict_each(images, self.sigma, self.seed, prevalence=self.prevalence)
        try:
            for source in self.sources:
                if self.stopped:
                    return
                late = self.seconds > LONGEST_RUN_S
                outcome = BlastlensError(f"{source.name} {_TOO_LONG}") if late else next(outcomes)
                if isinstance(outcome, Prediction):
                    outcome = suggesting(outcome, cast(ImageSource, source), self.others)
                    self.answered.append(Answered(source.name, source.subject, outcome))
                else:
                    self.failures.append((source.name, str(outcome)))
                self.done += 1
                self.seconds = time.perf_counter() - start
                yield
        finally:
            self.sources = ()

    def patients(self) -> list[Patient]:
        """The results so far by patient; none if it is unknown which of the model's labels are leukemic."""
        leukemic = leukemic_labels(self.folder.label_names)
        answers = (
            Answer(
                one.subject,
                one.prediction.label in leukemic,
                math.fsum(one.prediction.probabilities[label] for label in leukemic),
                one.prediction.in_domain is not False,
                self.classifier.leukemia(one.prediction),
                one.prediction.statistics,
            )
            for one in self.answered
        )
        return by_patient(answers, self.classifier.decider) if leukemic else []

    @property
    def about_decisions(self) -> tuple[str, ...]:
        """What was measured of decisions by subject, if the model makes any."""
        return (self.classifier.decider.measured,) if self.classifier.decider else ()

    @property
    def rejected(self) -> int:
        """How many of the images so far are out of distribution."""
        return sum(one.prediction.in_domain is False for one in self.answered)

    def to_dict(self) -> dict[str, Any]:
        """The results as plain JSON values."""
        rejected = [_REJECTED.format(number=self.rejected, of=len(self.answered))] if self.rejected else []
        validation = external_result.sentence(self.folder.metrics)
        return {
            "images": [_image_dict(one) for one in self.answered],
            "patients": [_patient_dict(patient) for patient in self.patients()],
            "failures": [{"file": name, "reason": reason} for name, reason in self.failures],
            "seed": self.seed,
            "prevalence": self.prevalence,
            **provenance(self.folder, self.sigma, [validation, *self.notes, *rejected, *self.about_decisions, CAVEAT]),
        }


def _image_dict(one: Answered) -> dict[str, Any]:
    p = one.prediction
    return {
        "file": one.name,
        "patient": one.subject,
        "label": p.label,
        "probabilities": dict(p.probabilities),
        "label_set": None if p.label_set is None else list(p.label_set),
        "flagged": p.flagged,
        "in_domain": p.in_domain,
        "suggestion": p.suggestion,
        "warnings": list(external_result.of_image(p.warnings)),
    }


def _patient_dict(patient: Patient) -> dict[str, Any]:
    return {
        "patient": patient.subject,
        "images": patient.images,
        "leukemic_images": patient.leukemic,
        "leukemic_share": patient.share.value,
        "leukemic_share_low": patient.share.low,
        "leukemic_share_high": patient.share.high,
        "mean_probability": patient.mean.value,
        "mean_probability_low": _or_none(patient.mean.low),
        "mean_probability_high": _or_none(patient.mean.high),
        "lowest_probability": patient.lowest,
        "highest_probability": patient.highest,
        "unlike_training_images": patient.unlike,
        "decision": patient.decision and patient.decision.label,
        "no_decision_because": patient.decision.reason or None if patient.decision else None,
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def image_rows(run: BatchRun) -> Iterator[dict[str, object]]:
    """The rows of images for download, failures and their reasons included."""
    origin, probabilities = _origin(run), [f"probability_{label}" for label in run.folder.label_names]
    columns = (
        "file",
        "patient",
        "label",
        *probabilities,
        "label_set",
        "flagged",
        "in_domain",
        "suggestion",
        "warnings",
    )
    for one in run.answered:
        row = _image_dict(one)
        row |= dict(zip(probabilities, row["probabilities"].values(), strict=True))
        row |= {"label_set": " or ".join(row["label_set"] or ()), "warnings": "; ".join(row["warnings"])}
        yield {**{column: row[column] for column in columns}, "reason": None, **origin}
    for name, reason in run.failures:
        yield {**dict.fromkeys(columns), "file": name, "reason": reason, **origin}


def patient_rows(run: BatchRun) -> Iterator[dict[str, object]]:
    """The rows of patients for download."""
    note = " ".join((*run.about_decisions, CAVEAT))
    for patient in run.patients():
        yield {**_patient_dict(patient), "patient": patient.subject or NOT_NAMED, **_origin(run), "note": note}


def _origin(run: BatchRun) -> dict[str, object]:
    return {
        "model_id": run.folder.model_id,
        "revision": run.folder.revision,
        "sigma": run.sigma,
        "seed": run.seed,
        "prevalence": run.prevalence,
        "images_given": run.total,
        "images_tried": run.done,
        "external_validation": external_result.sentence(run.folder.metrics),
        "disclaimer": DISCLAIMER,
    }


def image_table(run: BatchRun) -> dict[str, Any]:
    """The table of images as `gr.Dataframe` takes it, probabilities in per cent."""
    labels = run.folder.label_names
    headers = ["File", "Patient", "Prediction", *(f"{label} (%)" for label in labels)]
    headers += ["Not ruled out", "Operating point", "OOD check", "Remarks"]
    rows = []
    for one in run.answered:
        p = one.prediction
        remarks = [*external_result.of_image(p.warnings), *([f"fits {p.suggestion}"] if p.suggestion else [])]
        rejected = p.in_domain is False
        rows.append(
            [
                one.name,
                one.subject or NOT_NAMED,
                p.label,
                *(round(100 * p.probabilities[label], 1) for label in labels),
                "" if p.label_set is None or rejected else listed(p.label_set),
                "" if p.flagged is None or rejected else "flagged" if p.flagged else "not flagged",
                {True: "passed", False: "rejected", None: ""}[p.in_domain],
                "; ".join(remarks),
            ]
        )
    return {"headers": headers, "data": rows}


def patient_table(run: BatchRun) -> dict[str, Any]:
    """The table of patients as `gr.Dataframe` takes it, shares and probabilities in per cent."""
    headers = ["Patient", *["Decision"] * bool(run.about_decisions), "Images", "Leukemic", "Share (%)"]
    headers += ["Share, 95 % CI", "Mean probability (%)", "Mean, 95 % CI", "Lowest (%)", "Highest (%)", "Rejected"]
    rows = [
        [
            one.subject or NOT_NAMED,
            *([_decision(one)] if run.about_decisions else []),
            one.images,
            one.leukemic,
            *_with_interval(one.share),
            *_with_interval(one.mean),
            round(100 * one.lowest, 1),
            round(100 * one.highest, 1),
            one.unlike,
        ]
        for one in run.patients()
    ]
    return {"headers": headers, "data": rows}


def _decision(patient: Patient) -> str:
    return "" if patient.decision is None else patient.decision.label or "none"


def _with_interval(interval: Interval) -> tuple[float, str]:
    known = math.isfinite(interval.low)
    return round(100 * interval.value, 1), f"{100 * interval.low:.0f} to {100 * interval.high:.0f}" if known else ""
