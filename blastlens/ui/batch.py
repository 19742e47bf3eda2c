"""One pass of a model over many images, and what came of it as plain rows. No layout, no Gradio components."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from .. import external_result
from ..classifier import DISCLAIMER, Classifier, Prediction, suggesting
from ..errors import BlastlensError
from ..image_sources import LONGEST_RUN_S, Sources, list_sources
from ..images import ImageSource
from ..model_folder import ModelFolder
from ..noise import checked_seed, checked_sigma
from ..patients import CAVEAT, Answer, Patient, by_patient, leukemic_labels
from .model_registry import provenance

NOT_NAMED = "not named"
UNLIKE = (
    "{number} of {of} images do not look like those this model was trained on; their answers say nothing, and are "
    "part of what is summed up by patient."
)
_TOO_LONG = f"was left out, since the run took over {LONGEST_RUN_S // 60} minutes; give the rest in parts."


@dataclass(frozen=True)
class Answered:
    """What the model said about one image of the run."""

    name: str
    subject: str | None
    prediction: Prediction
    leukemia: float


@dataclass
class Run:
    """One pass of a model over images; it fills up while `steps` goes on, and keeps what was done if it is stopped.

    Attributes:
        classifier: None once the run is over: the page keeps the run for its tables, and a network is large.
        others: models that may be suggested for images that do not fit this one; none once the run is over.
        folder: the model's.
        total: how many images there are to try.
        answered, failures: so far; failures are name and reason, beginning with what cannot be an image.
        done: how many of the images have been tried.
        seconds: that took.
        stopped: set from outside, ends the steps.
    """

    classifier: Classifier | None
    others: tuple[Classifier, ...]
    folder: ModelFolder
    sigma: float
    seed: int
    prevalence: float | None
    listing: Sources
    total: int
    answered: list[Answered] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    done: int = 0
    seconds: float = 0.0
    stopped: bool = False

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        paths: Sequence[str],
        sigma: float,
        seed: int = 0,
        others: Iterable[Classifier] = (),
        prevalence: float | None = None,
    ) -> "Run":
        """List what is to be done; raises BlastlensError where that is nothing, or too much."""
        sigma, seed, prevalence = checked_sigma(sigma), checked_seed(seed), classifier.assumed(prevalence)
        listing = list_sources(paths)
        failures = list(listing.refused)
        folder, total = classifier.folder, len(listing.sources)
        run = cls(classifier, tuple(others), folder, sigma, seed, prevalence, listing, total, failures=failures)
        if not listing.sources:
            reason = f" {listing.refused[0][1]}" if listing.refused else ""
            raise BlastlensError(f"There is no image among the files given.{reason}")
        return run

    @property
    def finished(self) -> bool:
        """Whether every image has been tried."""
        return self.done == self.total

    def steps(self) -> Iterator[None]:
        """Do the work, an image at a time."""
        assert self.classifier is not None  # its steps are gone through once
        start = time.perf_counter()
        leukemic = leukemic_labels(self.folder.label_names)
        images = cast(Iterable[ImageSource], self.listing.sources)  # each has a name and can be read, as a file does
        outcomes = self.classifier.predict_each(images, self.sigma, self.seed, prevalence=self.prevalence)
        try:
            for source in self.listing.sources:
                if self.stopped:
                    return
                if self.seconds > LONGEST_RUN_S:
                    self.failures.append((source.name, f"{source.name} {_TOO_LONG}"))
                    self.done += 1
                    continue
                outcome = next(outcomes)
                if isinstance(outcome, Prediction):
                    outcome = suggesting(outcome, cast(ImageSource, source), self.others)
                    probability = math.fsum(outcome.probabilities[label] for label in leukemic)
                    self.answered.append(Answered(source.name, source.subject, outcome, probability))
                else:
                    self.failures.append((source.name, str(outcome)))
                self.done += 1
                self.seconds = time.perf_counter() - start
                yield
        finally:
            # The images, and with them an open zip, are not needed again, either.
            self.classifier, self.others = None, ()
            self.listing = replace(self.listing, sources=())

    def patients(self) -> list[Patient]:
        """What was answered so far by patient; none where the model's labels do not say what is leukemia."""
        leukemic = leukemic_labels(self.folder.label_names)
        if not leukemic:
            return []
        return by_patient(
            Answer(one.subject, one.prediction.label in leukemic, one.leukemia, one.prediction.in_domain is not False)
            for one in self.answered
        )

    @property
    def unlike(self) -> int:
        """How many of the images answered so far do not look like those that the model knows."""
        return sum(one.prediction.in_domain is False for one in self.answered)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        unlike = [UNLIKE.format(number=self.unlike, of=len(self.answered))] if self.unlike else []
        return {
            "images": [_image_dict(one) for one in self.answered],
            "patients": [_patient_dict(patient) for patient in self.patients()],
            "failures": [{"file": name, "reason": reason} for name, reason in self.failures],
            "seed": self.seed,
            "prevalence": self.prevalence,
            **provenance(
                self.folder,
                self.sigma,
                [external_result.sentence(self.folder.metrics), *self.listing.notes, *unlike, CAVEAT],
            ),
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
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def image_rows(run: Run) -> Iterator[dict[str, object]]:
    """The table of images for download; what failed is part of it, with the reason."""
    labels = run.folder.label_names
    for one in run.answered:
        p = one.prediction
        yield {
            "file": one.name,
            "patient": one.subject,
            "answer": p.label,
            **{f"probability_{label}": p.probabilities[label] for label in labels},
            "label_set": None if p.label_set is None else " or ".join(p.label_set),
            "flagged": p.flagged,
            "like_training_images": p.in_domain,
            "suggestion": p.suggestion,
            "warnings": "; ".join(p.warnings),
            "problem": None,
            **_origin(run),
        }
    for name, reason in run.failures:
        yield {
            "file": name,
            "patient": None,
            "answer": None,
            **{f"probability_{label}": None for label in labels},
            "label_set": None,
            "flagged": None,
            "like_training_images": None,
            "suggestion": None,
            "warnings": None,
            "problem": reason,
            **_origin(run),
        }


def patient_rows(run: Run) -> Iterator[dict[str, object]]:
    """The table of patients for download."""
    for patient in run.patients():
        yield {**_patient_dict(patient), "patient": patient.subject or NOT_NAMED, **_origin(run), "note": CAVEAT}


def _origin(run: Run) -> dict[str, object]:
    return {
        "model_id": run.folder.model_id,
        "revision": run.folder.revision,
        "sigma": run.sigma,
        "seed": run.seed,
        "prevalence": run.prevalence,
        "images_given": run.total,
        "images_tried": run.done,
        "disclaimer": DISCLAIMER,
    }
