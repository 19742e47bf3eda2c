"""Classifier: images to predictions, noise curves and activation maps."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, overload

import numpy as np

from . import external_result
from .corruptions import Corruption, kind_of
from .errors import BlastlensError
from .explanations import explanation
from .hub import Access, fetch
from .images import ImageSource, read_view
from .inference import load_network
from .model_folder import ModelFolder
from .noise import NOISE_SIGMAS, add_gaussian_noise, checked_seed, checked_sigma
from .ood_detection import statistics_of
from .patients import leukemic_labels
from .predictions import Curve, Prediction
from .subject_decisions import SubjectDecider
from .thresholds import Thresholds

BATCH = 4  # images per thread of the network that are in memory together
MAX_REASONS = 3  # of an out-of-distribution image
INCOMPLETE = "the input check could not look at the network's features; only its simple checks were made"
REMEMBERED = 32  # results of the OOD check that are kept, since a slider changes the same image again and again

Viewed = tuple[np.ndarray, tuple[str, ...]]  # as the network sees an image, uint8 (S, S, 3), and remarks on it


class Classifier:
    """A model folder ready to classify images; safe to share between threads.

    Attributes:
        folder: the model folder it serves.
        label_names: one per class, in the order of logits and probabilities.
        prevalence: the share of leukemic images that its calibration assumes; None where metrics.json states none.
        decider: the rule for one decision per subject; None where the folder has none.
    """

    def __init__(self, folder: ModelFolder, precision: str = "fp32", threads: int | None = None) -> None:
        """Load the network of a folder; `from_pretrained` also finds the folder."""
        self.folder = folder
        self.label_names = folder.label_names
        self._options = precision, threads
        self._network = load_network(folder, precision, threads)
        self._detector = detector = folder.ood_detector
        self._checks_features = bool(detector and detector.features and "features" in self._network.outputs)
        incomplete = detector and (detector.incomplete or (detector.features and not self._checks_features))
        self._about_check = (INCOMPLETE,) if incomplete else ()
        self._checked: dict[bytes, _Checked] = {}
        self._lock = Lock()
        calibration = folder.metrics.get("calibration") or {}
        self._thresholds = Thresholds.from_json(calibration)
        self._leukemic = leukemic_labels(folder.label_names)
        stated = calibration.get("prevalence") if self._leukemic else None
        self.prevalence = None if stated is None else checked_prevalence(stated)
        self._about_model = external_result.sentence(folder.metrics)
        # Without statistics of images there is nothing to check.
        self.decider = SubjectDecider.from_metrics(folder.metrics) if detector else None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        revision: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "Classifier":
        """Load a model by bundled name, local folder or Hub repository.

        Args:
            name_or_path: "mobilenetv1-cnmc2019" (or "models/..."), a path, or the Hub's "owner/name" or
                "owner/name@revision".
            revision: branch, tag or commit of a Hub repository, if not given with its name. A commit that is in
                the Hub's cache is loaded without a request.
            precision: "fp32", or "int8" for the quantized ONNX file: faster, slightly less accurate.
            threads: of each run of the network; by default all cores that this process may use. Use 1 if several
                threads of yours share this classifier.
            token, cache_dir, local_files_only: for a Hub repository, as in `huggingface_hub.snapshot_download`.

        Raises:
            BlastlensError: no such model, no access to it, or one that cannot be served.
        """
        access = Access(token, cache_dir, local_files_only)
        return cls(fetch(name_or_path, revision, access), precision, threads)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place of the model folder, from which another process of this machine loads it again."""
        folder = self.folder
        return _loaded_again, (type(self), (folder.path, folder.model_id, folder.revision), *self._options)

    @overload
    def predict(
        self,
        images: list[ImageSource] | tuple[ImageSource, ...],
        sigma: float = 0.0,
        seed: int = 0,
        corruption: Corruption | None = None,
        prevalence: float | None = None,
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self,
        images: ImageSource,
        sigma: float = 0.0,
        seed: int = 0,
        corruption: Corruption | None = None,
        prevalence: float | None = None,
    ) -> Prediction: ...
    def predict(
        self,
        images: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
        sigma: float = 0.0,
        seed: int = 0,
        corruption: Corruption | None = None,
        prevalence: float | None = None,
    ) -> Prediction | list[Prediction]:
        """Classify one image, or each of a list or tuple of them.

        Args:
            images: anything `blastlens.images.open_image` reads, or a list or tuple of such.
            sigma: standard deviation of Gaussian noise added to the pixels the network sees, 0 to 100.
            seed: of the noise; every image gets the same noise field.
            corruption: applied to the pixels the network sees, before the noise. Gaussian noise is given here or by
                sigma, not both.
            prevalence: the share of leukemic images to assume, between 0 and 1; by default the model's own. The
                logits of the leukemic labels are shifted by the difference of the log odds (Saerens et al. 2002,
                doi 10.1162/089976602753284446).

        Returns:
            A Prediction, or a list of them in the same order.

        Raises:
            BlastlensError: for the first image that cannot be read (`predict_each` goes on with the others),
                for a sigma or seed out of range, or for a prevalence that is out of range or that the model does not
                support because it states none.
        """
        change = _Change.of(sigma, seed, corruption, self.assumed(prevalence))
        if not isinstance(images, list | tuple):
            return self._predict([read_view(images, self.folder.view)], change)[0]
        predictions = []
        for outcome in self._outcomes(images, change):
            if isinstance(outcome, BlastlensError):
                raise outcome
            predictions.append(outcome)
        return predictions

    def predict_each(
        self,
        images: Iterable[ImageSource],
        sigma: float = 0.0,
        seed: int = 0,
        corruption: Corruption | None = None,
        prevalence: float | None = None,
    ) -> Iterator[Prediction | BlastlensError]:
        """Classify a stream of images in batches; an image that cannot be read yields its error.

        Arguments are those of `predict`; images may be any iterable.
        """
        return self._outcomes(images, _Change.of(sigma, seed, corruption, self.assumed(prevalence)))

    def _outcomes(self, images: Iterable[ImageSource], change: "_Change") -> Iterator[Prediction | BlastlensError]:
        def read(numbered: tuple[int, ImageSource]) -> Viewed | BlastlensError:
            try:
                return read_view(numbered[1], self.folder.view, f"image {numbered[0]}")
            except BlastlensError as error:
                return error

        numbered = enumerate(images, start=1)
        while chunk := list(islice(numbered, BATCH * self._network.threads)):
            read_ones = self._network.map(read, chunk)
            predictions = iter(self._predict([one for one in read_ones if isinstance(one, tuple)], change))
            for one in read_ones:
                yield next(predictions) if isinstance(one, tuple) else one

    def curve(
        self,
        image: ImageSource,
        kind: str = "gaussian_noise",
        levels: Sequence[float] | None = None,
        seeds: Sequence[int] = (0,),
        prevalence: float | None = None,
    ) -> Curve:
        """Classify one image at each level of one kind of corruption.

        Args:
            image: anything `blastlens.images.open_image` reads.
            kind: a name in `corruptions.KINDS`.
            levels: one or more, in any order; by default the kind's own.
            seeds: one or more; kinds without random numbers use only the first.
            prevalence: as in `predict`.

        Raises:
            BlastlensError: an unreadable image, an unknown kind, no level or no seed, or one out of range.
        """
        prevalence = self.assumed(prevalence)
        known = kind_of(kind)
        levels = tuple(Corruption(kind, level).level for level in (known.levels if levels is None else levels))
        seeds = [checked_seed(seed) for seed in seeds]
        if not levels or not seeds:
            raise BlastlensError("A curve needs at least one level and at least one seed.")
        seeds = seeds if known.seeded else seeds[:1]
        clean, _ = read_view(image, self.folder.view)
        corrupted = [Corruption(kind, level) for level in dict.fromkeys(levels) if level != known.neutral]
        changes = [(corruption, seed) for seed in seeds for corruption in corrupted]
        views = [clean, *self._network.map(lambda change: change[0].apply(clean, change[1]), changes)]
        unchanged, *others = self._probabilities(self._network.run(["logits"], views)[0], prevalence)
        # (seeds, 1 + levels, C); row 0 is the unchanged image, which every neutral level shows.
        rows = np.reshape(others, (len(seeds), len(corrupted), len(self.label_names)))
        rows = np.concatenate([np.broadcast_to(unchanged, (len(seeds), 1, unchanged.size)), rows], axis=1)
        row_of = {corruption.level: row for row, corruption in enumerate(corrupted, start=1)}
        rows = rows[:, [row_of.get(level, 0) for level in levels]]
        mean = rows.mean(axis=0)
        flipped = [level for level, label in zip(levels, mean.argmax(1), strict=True) if label != unchanged.argmax()]
        flip = min(flipped, key=lambda level: (abs(level - known.neutral), level), default=None)
        return Curve(kind, levels, mean, rows.min(axis=0), rows.max(axis=0), self.label_names, flip)

    def noise_curve(
        self,
        image: ImageSource,
        sigmas: Sequence[float] = NOISE_SIGMAS,
        seed: int = 0,
        prevalence: float | None = None,
    ) -> Curve:
        """`curve` of Gaussian noise: one noise field, scaled by each sigma (0 to 100, on the 0 to 255 scale)."""
        return self.curve(image, "gaussian_noise", sigmas, (seed,), prevalence)

    def assumed(self, prevalence: float | None) -> float | None:
        """The given prevalence, or the model's own; raises BlastlensError if out of range, or if the model has none."""
        if prevalence is None:
            return self.prevalence
        if self.prevalence is None:
            raise BlastlensError(
                f"Model {self.folder.model_id} does not state the prevalence that its probabilities assume, so it "
                "cannot be changed; leave prevalence out."
            )
        return checked_prevalence(prevalence)

    def activation_map(self, image: ImageSource, label: str | None = None) -> np.ndarray:
        """Map the support for a label in an image: a class activation map, or occlusion for networks that have none.

        See `blastlens.explanations.explanation`.

        Args:
            image: anything `blastlens.images.open_image` reads.
            label: one of `label_names`; by default the predicted one.

        Returns:
            float32 (S, S) in 0..1 for the S x S view that `pixels` returns; all zeros where it is constant.

        Raises:
            BlastlensError: an unreadable image or an unknown label.
        """
        if label is not None and label not in self.label_names:
            raise BlastlensError(f"There is no label {label!r}; one of {', '.join(self.label_names)} is expected.")
        view, _ = read_view(image, self.folder.view)
        if label is None:
            (logits,) = self._network.run(["logits"], [view])
            label = self.label_names[int(logits[0].argmax())]
        return explanation(self._network, view, self.label_names.index(label))

    def pixels(
        self, image: ImageSource, sigma: float = 0.0, seed: int = 0, corruption: Corruption | None = None
    ) -> np.ndarray:
        """The pixels the network sees, corruption and noise included, before normalisation: uint8 (S, S, 3).

        Raises:
            BlastlensError: an unreadable image, or a sigma or seed out of range.
        """
        return _Change.of(sigma, seed, corruption).apply(read_view(image, self.folder.view)[0])

    def _predict(self, views: list[Viewed], change: "_Change") -> list[Prediction]:
        """Predictions of views in their order.

        The OOD check sees views without corruption: a deliberate change says nothing about the image. Its results for
        views that are corrupted are kept.
        """
        if not views:
            return []
        clean, unchanged, detector = [pixels for pixels, _ in views], change.is_none, self._detector
        keys = [b"" if unchanged else blake2b(pixels.tobytes(), digest_size=16).digest() for pixels in clean]
        checked = [self._checked.get(key) for key in keys]
        todo = [i for i, found in enumerate(checked) if found is None] if detector else []
        unchecked = [clean[i] for i in todo]
        each: Any = self._network.map if len(views) > 1 else map
        seen = clean if unchanged else list(each(change.apply, clean))
        # Before the network runs, while the views are still in the processor's cache: half the time.
        statistics = list(each(statistics_of, unchecked))
        outputs = ["logits", "features"] if unchanged and self._checks_features else ["logits"]
        logits, *features = self._network.run(outputs, seen)
        if unchecked and self._checks_features and not unchanged:
            features = self._network.run(["features"], unchecked)
        if detector:
            for i, *found in zip(todo, statistics, *features, strict=True):
                checked[i] = detector.check(*found), found[0]
        if not unchanged:
            with self._lock:
                self._checked |= {keys[i]: one for i in todo if (one := checked[i])}
                for key in list(self._checked)[:-REMEMBERED]:
                    del self._checked[key]
        return [
            self._prediction(row, (*remarks, *self._about_check), found, change)
            for row, (_, remarks), found in zip(logits, views, checked, strict=True)
        ]

    def _probabilities(self, logits: np.ndarray, prevalence: float | None) -> np.ndarray:
        """Softmax of logits (..., C), shifted from the model's own prevalence to another one."""
        if prevalence is None or self.prevalence is None:
            return _softmax(logits)
        shift = _log_odds(prevalence) - _log_odds(self.prevalence)
        return _softmax(logits + shift * np.isin(self.label_names, self._leukemic))

    def _prediction(
        self, logits: np.ndarray, remarks: tuple[str, ...], checked: "_Checked | None", change: "_Change"
    ) -> Prediction:
        reasons, statistics = checked or (None, None)
        softmax = self._probabilities(logits, change.prevalence)
        at_own_prevalence = dict(zip(self.label_names, _softmax(logits).tolist(), strict=True))
        # Thresholds say nothing about an image that is out of distribution.
        thresholds = None if reasons else self._thresholds
        return Prediction(
            label=self.label_names[int(softmax.argmax())],
            probabilities=dict(zip(self.label_names, softmax.tolist(), strict=True)),
            logits=tuple(logits.tolist()),
            warnings=(self._about_model, *remarks, *(reasons or ())[:MAX_REASONS]),
            model_id=self.folder.model_id,
            revision=self.folder.revision,
            sigma=change.sigma,
            corruption=vars(change.corruption).copy() if change.corruption else None,
            in_domain=None if reasons is None else not reasons,
            label_set=thresholds.label_set(at_own_prevalence) if thresholds else None,
            flagged=thresholds.flagged(at_own_prevalence) if thresholds else None,
            prevalence=change.prevalence,
            statistics=statistics,
        )

    def leukemia(self, prediction: Prediction) -> float:
        """The probability of leukemia, of all leukemic labels together, at the model's own prevalence, 0 to 1."""
        probabilities = _softmax(np.array(prediction.logits))
        return float(probabilities[np.isin(self.label_names, self._leukemic)].sum())


def _loaded_again(kind: type[Classifier], place: tuple[Any, ...], *options: Any) -> Classifier:
    return kind(ModelFolder.load(*place), *options)


def suggesting(prediction: Prediction, image: ImageSource, classifiers: Iterable[Classifier]) -> Prediction:
    """Add to the prediction of an out-of-distribution image the first other model whose training images it resembles.

    Args:
        image: the image of the prediction, which must be readable again: a path, a source, or pixels.
        classifiers: models to choose from. Those with the same labels are left out: they answer the same question, and
            must not overrule the check.
    """
    if prediction.in_domain is not False:
        return prediction
    labels = set(prediction.probabilities)
    others = (one for one in classifiers if set(one.label_names) != labels)
    fitting = (one.folder.model_id for one in others if one.predict(image).in_domain)
    return replace(prediction, suggestion=next(fitting, None))


_Checked = tuple[tuple[str, ...], dict[str, float]]  # reasons of the OOD check, and the statistics of the view


@dataclass(frozen=True)
class _Change:
    """A corruption, not neutral, then Gaussian noise; and the prevalence that the probabilities assume."""

    sigma: float
    seed: int
    corruption: Corruption | None
    prevalence: float | None = None

    @classmethod
    def of(cls, sigma: float, seed: int, corruption: Corruption | None, prevalence: float | None = None) -> "_Change":
        sigma, seed = checked_sigma(sigma), checked_seed(seed)
        if corruption is not None and corruption.kind == "gaussian_noise":
            if sigma:  # of one seed, so both would be the same field and add up
                raise BlastlensError(f"Noise is given twice, as sigma {sigma:g} and as {corruption}; give one.")
            sigma, corruption = corruption.level, None
        if corruption is not None and corruption.is_neutral:
            corruption = None
        return cls(sigma, seed, corruption, prevalence)

    @property
    def is_none(self) -> bool:
        """Whether views stay as they are."""
        return self.corruption is None and self.sigma == 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        if self.corruption is not None:
            pixels = self.corruption.apply(pixels, self.seed)
        return add_gaussian_noise(pixels, self.sigma, self.seed)


def checked_prevalence(prevalence: float) -> float:
    """The same as a float; raises BlastlensError unless it is between 0 and 1, both excluded."""
    if isinstance(prevalence, bool) or not isinstance(prevalence, int | float) or not 0 < prevalence < 1:
        raise BlastlensError(f"The prevalence is {prevalence!r}; a share between 0 and 1, such as 0.5, is accepted.")
    return float(prevalence)


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
