"""Classifier: images to predictions, noise curves and activation maps."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from threading import Lock
from typing import Any, overload

import numpy as np
from PIL import Image

from . import external_result
from .corruptions import KINDS, Corruption
from .errors import BlastlensError
from .hub import fetch
from .images import ImageSource, name_of, read_view
from .inference import Backend, load_backend
from .model_folder import ModelFolder
from .noise import NOISE_SIGMAS, add_gaussian_noise, checked_seed, checked_sigma
from .ood_detection import Verdict, better_model, statistics_of
from .patients import leukemic_labels
from .thresholds import Decision

DISCLAIMER = "Research demonstration, not a medical device."
# Images that are looked at together, for each thread of the network.
BATCH = 4
# Of an image unlike the model's, the gate may have a dozen things to say; the plainest are enough.
MAX_REASONS = 3
INCOMPLETE = "the input check could not look at the network's features; only its simple checks were made"
# Untouched views whose verdict is kept, so that an image changed again and again is judged once.
REMEMBERED = 32


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image.

    Attributes:
        label: the most probable label.
        probabilities: softmax of the logits by label, in the model's order, adding up to 1; at `prevalence`.
        logits: the network's, one per label, in the same order.
        warnings: what may make this prediction mean less than it seems to, one short remark each. The first is about
            the model: its external validation in one sentence; the others are about the image.
        model_id, revision: which model; revision is None unless it came from the Hub.
        sigma: of the Gaussian noise that was added, on the 0 to 255 scale.
        corruption: what was done to the view beforehand, as {"kind", "level"}; None if nothing.
        in_domain: whether this looks like the images the model was trained on; if not, warnings say why. None
            where the model folder has no gate.json to tell by.
        label_set: the labels that cannot be ruled out, at the confidence that metrics.json states. None where the
            folder has no such figures, or found that they do not hold.
        flagged: whether this reaches the operating point, the threshold that misses few diseased images; None where
            the folder has none. This and `label_set` are thresholds on the probabilities at the model's own prevalence
            and do not depend on `prevalence`.
        suggestion: id of another model that this image fits, where it does not fit this one; see `suggesting`.
        prevalence: the share of leukemic images that the probabilities assume; None where the model states none.
    """

    label: str
    probabilities: dict[str, float]
    logits: tuple[float, ...]
    warnings: tuple[str, ...]
    model_id: str
    revision: str | None
    sigma: float
    corruption: dict[str, Any] | None = None
    in_domain: bool | None = None
    label_set: tuple[str, ...] | None = None
    flagged: bool | None = None
    suggestion: str | None = None
    prevalence: float | None = None
    disclaimer: str = DISCLAIMER

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return vars(self) | {
            "probabilities": dict(self.probabilities),
            "logits": list(self.logits),
            "warnings": list(self.warnings),
            "corruption": self.corruption and dict(self.corruption),
            "label_set": None if self.label_set is None else list(self.label_set),
        }


@dataclass(frozen=True, eq=False)
class Curve:
    """How the probabilities of one image move as it gets worse in one way.

    Attributes:
        kind: of corruption, a name in `corruptions.KINDS`.
        levels: S levels of it, in the order asked for.
        probabilities: float (S, C), one row per level: the mean over the seeds.
        low, high: float (S, C), the smallest and the largest over the seeds; of one seed, the same again.
        label_names: of the C columns.
        flip_level: the level nearest to neutral at which the label, the most probable one on average, is not
            that of the untouched image; None where it holds throughout.
    """

    kind: str
    levels: tuple[float, ...]
    probabilities: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label_names: tuple[str, ...]
    flip_level: float | None

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The levels, which for Gaussian noise are its sigmas on the 0 to 255 scale."""
        return self.levels

    @property
    def flip_sigma(self) -> float | None:
        """The flip level, which for Gaussian noise is the smallest sigma that changes the label."""
        return self.flip_level


class Classifier:
    """A model folder ready to classify images; threads may share one.

    Attributes:
        folder: the model folder it serves.
        label_names: one per class, in the order of logits and probabilities.
        prevalence: the share of leukemic images that its calibration assumes; None where metrics.json states none.
    """

    def __init__(
        self,
        folder: ModelFolder,
        precision: str = "fp32",
        backend: Backend | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the network of a folder, unless a loaded one is given.

        See `from_pretrained`, which also finds the folder.
        """
        self.folder = folder
        self.label_names = folder.label_names
        self._backend = backend or load_backend(folder, precision, threads)
        gate, figures = folder.gate, folder.metrics.get("calibration")
        self._scores_features = gate is not None and gate.features is not None and self._backend.has_features
        self._verdicts: dict[bytes, Verdict] = {}
        self._remembering = Lock()
        self._decision = Decision.from_json(figures) if isinstance(figures, dict) else None
        self._leukemic = leukemic_labels(folder.label_names)
        stated = (figures or {}).get("prevalence") if self._leukemic else None
        self.prevalence = None if stated is None else checked_prevalence(stated)
        self._about_model = external_result.sentence(folder.metrics)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        revision: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
    ) -> "Classifier":
        """Load a model by bundled name, local folder or Hub repository.

        Args:
            name_or_path: "mobilenetv1-cnmc2019" (or "models/..."), a path, or the Hub's "owner/name" or
                "owner/name@revision".
            revision: branch, tag or commit of a Hub repository, if not given with its name. A commit that is in
                the Hub's cache is loaded from there without asking the Hub.
            precision: "fp32", or "int8" for the quantised ONNX file: quicker, a little less accurate.
            threads: of each run of the network; by default every core that this process may use. 1 where several
                threads of yours ask this classifier at once.

        Raises:
            BlastlensError: no such model, none that may be read or can be fetched, or one that cannot be served.
        """
        return cls(fetch(name_or_path, revision), precision, threads=threads)

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
            seed: of the noise; every image gets the same field.
            corruption: done to the pixels the network sees, before noise is added. Gaussian noise given here
                is the same as given by its sigma, and is accepted once.
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
        if isinstance(images, list | tuple):
            return [_or_raise(outcome) for outcome in self.predict_each(images, sigma, seed, corruption, prevalence)]
        change = _Change.of(sigma, seed, corruption, self.assumed(prevalence))
        return self._predictions([self._look(images)], change)[0]

    def predict_each(
        self,
        images: Iterable[ImageSource],
        sigma: float = 0.0,
        seed: int = 0,
        corruption: Corruption | None = None,
        prevalence: float | None = None,
    ) -> Iterator[Prediction | BlastlensError]:
        """Classify a stream of images in batches; one that cannot be read yields its error and stops nothing.

        Only a batch of views is in memory at a time. Arguments are those of `predict`.
        """
        return self._outcomes(images, _Change.of(sigma, seed, corruption, self.assumed(prevalence)))

    def _outcomes(self, images: Iterable[ImageSource], change: "_Change") -> Iterator[Prediction | BlastlensError]:
        numbered = enumerate(images, start=1)
        while chunk := list(islice(numbered, BATCH * self._backend.threads)):
            outcomes = self._backend.map(lambda one: self._try_look(one[1], f"image {one[0]}"), chunk)
            looks = [look for look in outcomes if isinstance(look, _Look)]
            predictions = iter(self._predictions(looks, change))
            for look in outcomes:
                yield next(predictions) if isinstance(look, _Look) else look

    def fits(self, image: ImageSource) -> bool | None:
        """Whether an image is of the kind this model knows; None where its folder has no gate to tell by.

        Raises:
            BlastlensError: an unreadable image.
        """
        verdict = self._verdict_of_view(self._look(image).pixels)
        return verdict.fits if verdict else None

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
            seeds: one or more, each a draw of the noise; kinds that draw no random numbers do without.
            prevalence: as in `predict`.

        Raises:
            BlastlensError: an unreadable image, an unknown kind, no level or no seed, or one out of range.
        """
        prevalence = self.assumed(prevalence)
        if not isinstance(kind, str) or kind not in KINDS:
            raise BlastlensError(f"There is no corruption {kind!r}; one of {', '.join(KINDS)} is accepted.")
        chosen = KINDS[kind].levels if levels is None else levels
        asked = tuple(Corruption(kind, level).level for level in chosen)
        draws = [checked_seed(seed) for seed in seeds]
        if not asked or not draws:
            raise BlastlensError("A curve needs at least one level and at least one seed.")
        clean = self._look(image).pixels
        # Row 0 is the untouched image, whose label the others are held against.
        rows = [corruption for level in dict.fromkeys(asked) if not (corruption := Corruption(kind, level)).is_neutral]
        draws = draws if KINDS[kind].seeded else draws[:1]
        changes = [(corruption, seed) for seed in draws for corruption in rows]
        stack = [clean, *self._backend.map(lambda change: change[0].apply(clean, change[1]), changes)]
        untouched, *others = self._probabilities(self._logits(stack), prevalence)
        by_draw = np.reshape(others, (len(draws), len(rows), len(self.label_names)))
        by_draw = np.concatenate([np.broadcast_to(untouched, (len(draws), 1, untouched.size)), by_draw], axis=1)
        place = {corruption.level: row for row, corruption in enumerate(rows, start=1)}
        by_draw = by_draw[:, [place.get(level, 0) for level in asked]]
        mean = by_draw.mean(axis=0)
        flipped = [
            level for level, label in zip(asked, mean.argmax(axis=1), strict=True) if label != untouched.argmax()
        ]
        neutral = KINDS[kind].neutral
        flip = min(flipped, key=lambda level: (abs(level - neutral), level), default=None)
        return Curve(kind, asked, mean, by_draw.min(axis=0), by_draw.max(axis=0), self.label_names, flip)

    def noise_curve(
        self,
        image: ImageSource,
        sigmas: Sequence[float] = NOISE_SIGMAS,
        seed: int = 0,
        prevalence: float | None = None,
    ) -> Curve:
        """Classify one image at each level of Gaussian noise, with one noise field scaled by sigma.

        Args:
            image: anything `blastlens.images.open_image` reads.
            sigmas: one or more standard deviations on the 0 to 255 scale, each 0 to 100.
            seed: of the noise field.
            prevalence: as in `predict`.

        Raises:
            BlastlensError: an unreadable image, no sigma, or a sigma or seed out of range.
        """
        return self.curve(image, "gaussian_noise", sigmas, (seed,), prevalence)

    def assumed(self, prevalence: float | None) -> float | None:
        """The prevalence to assume: the model's own unless one is given.

        Raises:
            BlastlensError: it is out of range, or the model states none.
        """
        if prevalence is None:
            return self.prevalence
        if self.prevalence is None:
            raise BlastlensError(
                f"Model {self.folder.model_id} does not state the prevalence that its probabilities assume, so it "
                "cannot be changed; leave prevalence out."
            )
        return checked_prevalence(prevalence)

    def activation_map(self, image: ImageSource, label: str | None = None) -> np.ndarray:
        """Where in its view the network found evidence for a label.

        The class activation map of Zhou et al. (2016), "Learning Deep Features for Discriminative
        Localization": the last linear layer applied to every position of the last feature map, enlarged
        bilinearly. It is scaled to 0..1 for each image on its own, so maps of two images do not compare in
        strength.

        Args:
            image: anything `blastlens.images.open_image` reads.
            label: one of `label_names`; by default the predicted one.

        Returns:
            float32 (S, S) in 0..1 for the S x S view `pixels` returns; all zeros where every position says
            the same.

        Raises:
            BlastlensError: an unreadable image, an unknown label, or a network without such a last layer.
        """
        if label is not None and label not in self.label_names:
            raise BlastlensError(f"There is no label {label!r}; one of {', '.join(self.label_names)} is expected.")
        if not self._backend.has_cam:
            raise BlastlensError(
                f"Model {self.folder.model_id} has no activation map; its network does not end in average "
                "pooling and one linear layer."
            )
        (logits,), (cam,) = self._backend.logits_and_cam([self._look(image).pixels])
        chosen = int(logits.argmax()) if label is None else self.label_names.index(label)
        size = (self.folder.view.size, self.folder.view.size)
        heat = np.asarray(Image.fromarray(cam[chosen]).resize(size, Image.Resampling.BILINEAR))
        low, high = heat.min(), heat.max()
        return (heat - low) / (high - low) if high > low else np.zeros_like(heat)

    def pixels(
        self, image: ImageSource, sigma: float = 0.0, seed: int = 0, corruption: Corruption | None = None
    ) -> np.ndarray:
        """The pixels the network sees, corruption and noise included, before normalisation: uint8 (S, S, 3).

        Raises:
            BlastlensError: an unreadable image, or a sigma or seed out of range.
        """
        change = _Change.of(sigma, seed, corruption)
        return change.apply(self._look(image).pixels)

    def _look(self, image: ImageSource, unnamed: str = "image") -> "_Look":
        pixels, remarks = read_view(image, self.folder.view, name_of(image, unnamed))
        if _is_grey(pixels):
            remarks += ("image has no colour; the model was trained on stained cells in colour",)
        gate = self.folder.gate
        if gate and (gate.incomplete or (gate.features and not self._scores_features)):
            remarks += (INCOMPLETE,)
        return _Look(pixels, remarks)

    def _try_look(self, image: ImageSource, unnamed: str) -> "_Look | BlastlensError":
        try:
            return self._look(image, unnamed)
        except BlastlensError as error:
            return error

    def _logits(self, views: list[np.ndarray]) -> np.ndarray:
        return self._backend.logits(views) if views else np.empty((0, len(self.label_names)), np.float32)

    def _predictions(self, looks: "list[_Look]", change: "_Change") -> list[Prediction]:
        gate, views = self.folder.gate, [look.pixels for look in looks]
        if not change.is_none:
            views = self._backend.map(change.apply, views)
        verdicts: list[Verdict | None]
        if gate is None:
            logits, verdicts = self._logits(views), [None] * len(looks)
        elif self._scores_features and not change.is_none:
            # The untouched view is judged: what a reader adds on purpose says nothing about the image.
            verdicts = [self._verdict_of_view(look.pixels) for look in looks]
            logits = self._logits(views)
        else:
            # Before the network runs, while the views are still in the processor's cache: half the time.
            found = self._backend.map(lambda look: statistics_of(look.pixels), looks)
            features: list[np.ndarray | None] = [None] * len(looks)
            if self._scores_features:
                logits, of_views = self._logits_and_features(views)
                features = list(of_views)
            else:
                logits = self._logits(views)
            verdicts = [gate.verdict(*one) for one in zip(found, features, strict=True)]
        return [self._prediction(*one, change) for one in zip(logits, looks, verdicts, strict=True)]

    def _verdict_of_view(self, pixels: np.ndarray) -> Verdict | None:
        gate = self.folder.gate
        if gate is None:
            return None
        # Known by their digest: the views themselves would take 5 MB.
        key = blake2b(pixels.tobytes(), digest_size=16).digest()
        verdict = self._verdicts.get(key)
        if verdict is None:
            features = self._logits_and_features([pixels])[1][0] if self._scores_features else None
            verdict = gate.judge(pixels, features)
            with self._remembering:
                self._verdicts[key] = verdict
                while len(self._verdicts) > REMEMBERED:
                    del self._verdicts[next(iter(self._verdicts))]
        return verdict

    def _logits_and_features(self, views: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        if not views:
            return self._logits(views), np.empty((0, 0), np.float32)
        return self._backend.logits_and_features(views)

    def _probabilities(self, logits: np.ndarray, prevalence: float | None) -> np.ndarray:
        """Softmax of logits (..., C), shifted from the model's own prevalence to another one."""
        if prevalence is None or self.prevalence is None:
            return _softmax(logits)
        shift = _log_odds(prevalence) - _log_odds(self.prevalence)
        return _softmax(logits + shift * np.isin(self.label_names, self._leukemic))

    def _prediction(self, logits: np.ndarray, look: "_Look", verdict: Verdict | None, change: "_Change") -> Prediction:
        softmax = self._probabilities(logits, change.prevalence)
        at_own_prevalence = dict(zip(self.label_names, _softmax(logits).tolist(), strict=True))
        # Of an image that is not of the model's kind nothing can be decided.
        decision = self._decision if verdict is None or verdict.fits else None
        return Prediction(
            label=self.label_names[int(softmax.argmax())],
            probabilities=dict(zip(self.label_names, softmax.tolist(), strict=True)),
            logits=tuple(logits.tolist()),
            warnings=(self._about_model, *look.warnings, *(verdict.reasons[:MAX_REASONS] if verdict else ())),
            model_id=self.folder.model_id,
            revision=self.folder.revision,
            sigma=change.sigma,
            corruption=vars(change.corruption).copy() if change.corruption else None,
            in_domain=verdict.fits if verdict else None,
            label_set=decision.labels(at_own_prevalence) if decision else None,
            flagged=decision.flagged(at_own_prevalence) if decision else None,
            prevalence=change.prevalence,
        )


def suggesting(prediction: Prediction, image: ImageSource, classifiers: Iterable[Classifier]) -> Prediction:
    """A prediction with the model that should have been asked, where there is one.

    Args:
        prediction: of any model. Only where its gate refused the image are others asked.
        image: the one it is of, which must be readable again: a path, a source, or pixels.
        classifiers: models to choose from; the first that the image fits is suggested. Those with the labels of the
            model that was asked answer the same question, so that a refusal must not be talked round by them.
    """
    if prediction.in_domain is not False:
        return prediction
    asked = set(prediction.probabilities)
    others = (one for one in classifiers if set(one.folder.label_names) != asked)
    return replace(prediction, suggestion=better_model(image, others))


@dataclass(frozen=True)
class _Look:
    """One image as the network sees it, uint8 (S, S, 3) without noise, and what to say about it."""

    pixels: np.ndarray
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Change:
    """What is done to every view of a call: a corruption that is no noise and not neutral, then Gaussian noise.

    And the prevalence that the probabilities assume.
    """

    sigma: float
    seed: int
    corruption: Corruption | None
    prevalence: float | None = None

    @classmethod
    def of(cls, sigma: float, seed: int, corruption: Corruption | None, prevalence: float | None = None) -> "_Change":
        sigma, seed = checked_sigma(sigma), checked_seed(seed)
        if corruption is not None and corruption.kind == "gaussian_noise":
            # With one seed both would be the same field, and add up to another sigma than either says.
            if sigma:
                raise BlastlensError(
                    f"Gaussian noise is given twice, as sigma {sigma:g} and as {corruption}; give one."
                )
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


def _is_grey(pixels: np.ndarray) -> bool:
    # Nearly every image shows its colours on the middle row, where they are quick to find.
    return all(
        (part[..., 0] == part[..., other]).all() for part in (pixels[len(pixels) // 2], pixels) for other in (1, 2)
    )


def _or_raise(outcome: Prediction | BlastlensError) -> Prediction:
    if isinstance(outcome, BlastlensError):
        raise outcome
    return outcome


def checked_prevalence(prevalence: float) -> float:
    """The same as a float; raises BlastlensError unless it is between 0 and 1, neither of them included."""
    if isinstance(prevalence, bool) or not isinstance(prevalence, int | float) or not 0 < prevalence < 1:
        raise BlastlensError(f"The prevalence is {prevalence!r}; a share between 0 and 1, such as 0.5, is accepted.")
    return float(prevalence)


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
