"""Slide-appearance groups of the 4-class set: a proxy for the patients that its publication does not name.

It is not published which fields come from one slide, but three traces of it can be measured:

1. *Overlap.* Among 2,467 of the fields, 468 pairs (19 of them byte-identical) show the same cells, shifted. Those are
   certainly one slide. They are found by phase correlation (Kuglin and Hines 1975, Proc. IEEE Int. Conf. on Cybernetics
   and Society, 163-165) and accepted by the correlation of the shared area, which separates cleanly: between fields of
   different classes, where no overlap can be, it stays below 0.47 in 2.2 million pairs.
2. *Colour.* Plasma, red cells and nuclei carry one slide's stain and one session's white balance and focus.
3. *Order.* Files are numbered as they were taken. Slides are interleaved in places, in Benign throughout, but each
   strand drifts smoothly in colour along the numbers.

So each class is cut into small patches, alike in colour *and* near in order; patches that share an overlapping pair
become one group; and the smallest groups join the group most like them until `GROUPS_PER_CLASS` are left.

What this cannot do: slides that look alike and are numbered side by side end up in one group (harmless), and parts of
one slide without an overlap may end up in two (a leak). The classes were also imaged under different conditions, so
that colour tells them apart across groups too, only less well: the macro-F1 of a nearest neighbour in a Lab histogram
falls from 0.994 (random 10-fold) to 0.95 (three folds of whole groups). Figures measured with these groups are
cluster-disjoint; they are not patient-disjoint.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter

from train.datasets.groups import components

Floats = NDArray[np.float32]

GROUPS_PER_CLASS = 10  # coarse enough to be a barrier, enough for five folds of at least two
PATCH_IMAGES = 15  # of one slide with good odds: overlapping fields are mostly fewer than 25 files apart
ORDER_WEIGHT = 2.0  # spread of the file order against the spread of all colours together
THUMBNAIL = 64  # px per side at which overlaps are sought; a red cell is about 4 px
PEAK = 0.10  # of phase correlation, 1 for equal images; one pair in eleven is above and is examined further
OVERLAP_AREA = 0.10  # of the field: less is not enough to tell
OVERLAP_CORRELATION = 0.6


def appearance(pixels: NDArray[np.uint8]) -> Floats:
    """Describe stain and imaging of a field, uint8 (H, W, 3) -> float32 (8,).

    CIELAB of its plasma (b only: the rest is clipped white), red cells (L, a, b) and nuclei (L, a, b), and the log
    variance of its finest detail, which tells focus and scale.
    """
    image = Image.fromarray(pixels).resize((112, 112), Image.Resampling.BOX)
    lab = _lab(np.asarray(image, dtype=np.float32) / np.float32(255))
    lightness = lab[..., 0]
    dark, middle, light = np.percentile(lightness, (25, 60, 85))
    purple = lab[..., 1] - lab[..., 2]
    plasma = np.median(lab[lightness >= light], axis=0)
    red_cells = np.median(lab[(lightness >= dark) & (lightness <= middle)], axis=0)
    nuclei = np.median(lab[purple >= np.percentile(purple, 97)], axis=0)
    detail = np.log(np.var(lightness - gaussian_filter(lightness, 1)) + 1e-3)
    return np.array([plasma[2], *red_cells, *nuclei, detail], dtype=np.float32)


def thumbnail(pixels: NDArray[np.uint8]) -> Floats:
    """Reduce a field, uint8 (H, W, 3), to what overlaps are sought in: float32 (64, 64), without slow shading
    and without the lower right corner, where some fields carry a scale bar.
    """
    image = Image.fromarray(pixels).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    grey = np.asarray(image, dtype=np.float32)
    grey = grey - gaussian_filter(grey, THUMBNAIL / 14)
    grey[int(0.9 * THUMBNAIL) :, int(0.78 * THUMBNAIL) :] = 0
    return grey


def overlapping_pairs(
    thumbnails: Floats, among: Sequence[NDArray[np.intp]], tick: Callable[[int], object] = lambda pairs: None
) -> list[tuple[int, int]]:
    """Find the pairs of fields that show the same place of a slide, each pair within one array of `among`.

    `thumbnails` is (N, 64, 64); every array of `among` holds indices into it. `tick` is called with the number of pairs
    just examined. About 20 microseconds of one core per pair.
    """
    spectra = _whitened_spectra(thumbnails)
    found = []
    for members in among:
        for k, i in enumerate(members[:-1]):
            others = members[k + 1 :]
            surface = irfft2(spectra[i] * spectra[others].conj(), thumbnails.shape[1:], axes=(1, 2))
            surface = surface.reshape(len(others), -1)
            peak = surface.argmax(axis=1)
            for at in np.flatnonzero(surface[np.arange(len(others)), peak] > PEAK):
                j = others[at]
                if _shared_correlation(thumbnails[i], thumbnails[j], int(peak[at])) >= OVERLAP_CORRELATION:
                    found.append((int(i), int(j)))
            tick(len(others))
    return found


def slide_groups(features: Floats, links: Iterable[tuple[int, int]]) -> NDArray[np.intp]:
    """Group the fields of one class: `features` (N, 8) from `appearance`, in the order of the file numbers.

    `links` are pairs that must stay together. Returns each field's group (N,), 0..K-1 in order of first appearance, K
    at most `GROUPS_PER_CLASS`.
    """
    n = len(features)
    if n < 2:
        return np.zeros(n, dtype=np.intp)
    looks = _standardised(features) / np.sqrt(features.shape[1])
    order = _standardised(np.arange(n, dtype=np.float32)[:, None]) * ORDER_WEIGHT
    patches = min(n, max(GROUPS_PER_CLASS, round(n / PATCH_IMAGES)))
    from sklearn.cluster import AgglomerativeClustering  # takes seconds

    patch = AgglomerativeClustering(patches).fit_predict(np.hstack([looks, order]))
    joined = components(patches, ((int(patch[i]), int(patch[j])) for i, j in links))
    _, first, inverse = np.unique(_coarsened(joined[patch], looks), return_index=True, return_inverse=True)
    return first.argsort().argsort()[inverse]


def _coarsened(group: NDArray[np.intp], looks: Floats) -> NDArray[np.intp]:
    """Join the smallest group with the one of the most similar mean, until few enough are left."""
    while (group := np.unique(group, return_inverse=True)[1]).max() + 1 > GROUPS_PER_CLASS:
        size = np.bincount(group)
        mean = np.stack([np.bincount(group, weights=column) / size for column in looks.T], axis=1)
        smallest = size.argmin()
        distance = np.linalg.norm(mean - mean[smallest], axis=1)
        distance[smallest] = np.inf
        group = np.where(group == smallest, distance.argmin(), group)
    return group


def _standardised(values: Floats) -> Floats:
    return (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)


def _whitened_spectra(thumbnails: Floats) -> NDArray[np.complex64]:
    """Spectra (N, 64, 33), every frequency of about equal weight, whose inverse transforms have unit norm."""
    side = thumbnails.shape[1]
    taper = np.sqrt(np.hanning(side + 2)[1:-1]).astype(np.float32)
    spectra = rfft2(thumbnails * np.outer(taper, taper), axes=(1, 2))
    power = np.sqrt(np.mean(np.abs(spectra) ** 2, axis=0))
    spectra /= power + 0.02 * power.max() + 1e-12  # the floor keeps faint frequencies from being all noise
    norm = np.sqrt((irfft2(spectra, thumbnails.shape[1:], axes=(1, 2)) ** 2).sum(axis=(1, 2)))
    return (spectra / (norm[:, None, None] + 1e-12)).astype(np.complex64)


def _shared_correlation(a: Floats, b: Floats, peak: int) -> float:
    """Correlation of the area two fields share when shifted by `peak`, the best of the shifts that a periodic
    transform cannot tell apart; 0 where they share less than `OVERLAP_AREA`.
    """
    side = len(a)
    down, right = divmod(peak, side)
    best = 0.0
    for dy in (down, down - side):
        for dx in (right, right - side):
            if (side - abs(dy)) * (side - abs(dx)) < OVERLAP_AREA * side * side:
                continue
            of_a = a[max(0, dy) : side + min(0, dy), max(0, dx) : side + min(0, dx)]
            of_b = b[max(0, -dy) : side + min(0, -dy), max(0, -dx) : side + min(0, -dx)]
            of_a, of_b = of_a - of_a.mean(), of_b - of_b.mean()
            scale = np.sqrt((of_a * of_a).sum() * (of_b * of_b).sum())
            best = max(best, float((of_a * of_b).sum() / scale) if scale > 0 else 0.0)
    return best


def _lab(rgb: Floats) -> Floats:
    """sRGB in 0..1 (..., 3) -> CIELAB under D65."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab = (116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2]))
    return np.stack(lab, axis=-1).astype(np.float32)
