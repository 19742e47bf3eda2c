"""Decisions by subject from a results file: `score --by-subject`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .. import external_result
from ..classifier import Classifier
from ..errors import BlastlensError
from ..image_sources import natural
from ..patients import leukemic_labels
from ..predictions import DISCLAIMER, Prediction
from ..subject_decisions import MEASURES, SubjectDecider
from ..subject_tables import SubjectTables, folder_subject

# What a results file has in addition: the subject, the probability of leukemia at the model's own prevalence, and the
# statistics of the view, in the order of MEASURES.
COLUMNS = (
    ("subject", pa.string()),
    ("p_leukemia", pa.float64()),
    ("statistics", pa.list_(pa.float64())),
)


class DecidesBySubject:
    """Finds the subject of each image: in a table; without one in names as in C-NMC 2019, or else its folder."""

    def __init__(self, classifier: Classifier, table: str | None) -> None:
        """Raises BlastlensError where the model makes no decisions, or the table cannot be used."""
        if classifier.decider is None:
            raise BlastlensError(
                f"Model {classifier.folder.model_id} makes no decisions by subject: its metrics.json has no block "
                "subjects; leave --by-subject out."
            )
        self._classifier, self._tables, self._has_table = classifier, SubjectTables(), table is not None
        if table is not None:
            if not Path(table).is_file():
                raise BlastlensError(f"{table} does not exist; a table of file_name and subject is needed.")
            self._tables.add(Path(table).name, Path(table).read_bytes)

    def columns(self, names: Sequence[str], told: Sequence[Prediction | None]) -> dict[str, list[Any]]:
        """The values of `COLUMNS` for some images; `told` is None where there is no answer."""
        subjects = [subject for subject, _ in self._tables.about(names)[0]]
        if not self._has_table:
            subjects = [subject or folder_subject(name) for subject, name in zip(subjects, names, strict=True)]
        return {
            "subject": subjects,
            "p_leukemia": [p and self._classifier.leukemia(p) for p in told],
            "statistics": [p and p.statistics and [p.statistics[name] for name in MEASURES] for p in told],
        }


@dataclass
class _Sums:
    images: int = 0
    leukemic: int = 0
    probability: float = 0.0
    counted: int = 0  # images with statistics
    statistics: np.ndarray = field(default_factory=lambda: np.zeros(len(MEASURES)))


def decisions(results: Path, classifier: Classifier, decider: SubjectDecider) -> Iterator[dict[str, object]]:
    """One row for each subject of a results file, in natural order; images of unknown subjects are left out."""
    sums: dict[str, _Sums] = {}
    leukemic = leukemic_labels(classifier.label_names)
    file = pq.ParquetFile(results)
    for number in range(file.num_row_groups):
        table = file.read_row_group(number, columns=["label", *(name for name, _ in COLUMNS)])
        for row in table.to_pylist():
            if row["subject"] is None or row["p_leukemia"] is None:
                continue
            mine = sums.setdefault(row["subject"], _Sums())
            mine.images += 1
            mine.leukemic += row["label"] in leukemic
            mine.probability += row["p_leukemia"]
            if row["statistics"] and np.isfinite(row["statistics"]).all():
                mine.counted += 1
                mine.statistics += row["statistics"]
    for subject in sorted(sums, key=natural):
        mine = sums[subject]
        mean = mine.statistics / mine.counted if mine.counted else np.full(len(MEASURES), np.nan)
        found = decider.decide(mine.images, mine.probability / mine.images, mean)
        yield {
            "subject": subject,
            "images": mine.images,
            "leukemic_images": mine.leukemic,
            "mean_probability": mine.probability / mine.images,
            "decision": found.label,
            "no_decision_because": found.reason or None,
            "model_id": classifier.folder.model_id,
            "revision": classifier.folder.revision,
            "external_validation": external_result.sentence(classifier.folder.metrics),
            "note": decider.measured,
            "disclaimer": DISCLAIMER,
        }
