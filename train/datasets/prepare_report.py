"""What `prepare` did with every file it met, as data and as the text that it ends with."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from train.datasets.groups import equal_pairs
from train.datasets.rows import Row


@dataclass(frozen=True)
class Account:
    """Paths are relative to the source folder. `overlaps` are pairs of fields that show the same place of a
    slide, None where none were sought.
    """

    layout: str
    rows: tuple[Row, ...]
    refused: tuple[tuple[str, str], ...]
    aside: tuple[str, ...]
    not_recognised: tuple[str, ...]
    tables: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    overlaps: int | None = None

    @property
    def seen(self) -> int:
        """How many files there were: each is used, refused, left aside, a label table or not recognised."""
        others = (self.refused, self.aside, self.tables, self.not_recognised)
        return len(self.rows) + sum(map(len, others))

    def counts(self) -> dict[str, int | None]:
        """The figures of `text`, for prepare.json."""
        pairs = _pairs(self.rows)
        return {
            "seen": self.seen,
            "used": len(self.rows),
            "refused": len(self.refused),
            "left_aside": len(self.aside),
            "not_recognised": len(self.not_recognised),
            "missing": len(self.missing),
            "groups": len({row.group for row in self.rows if row.group}),
            "duplicate_pairs": len(pairs),
            "duplicate_pairs_across_subjects": sum(a.subject != b.subject for a, b in pairs),
            "overlapping_pairs": self.overlaps,
        }

    def text(self) -> str:
        """Every file accounted for; refused and not recognised ones by name."""
        lines = [f"{self.layout}: {self.seen:,} files seen"]
        lines.append(f"  used            {len(self.rows):,}  ({_of_each(self.rows)})")
        if groups := {row.group for row in self.rows if row.group}:
            subjects = {row.subject for row in self.rows if row.subject}
            from_subjects = f"{len(subjects)} subjects in " if subjects else ""
            lines.append(f"  groups          {from_subjects}{len(groups)} groups")
        lines.append(f"  duplicates      {_duplicates(self.rows)}")
        if self.overlaps is not None:
            lines.append(f"  overlaps        {self.overlaps:,} pairs of fields that share a place, kept together")
        if self.aside:
            lines.append(f"  left aside      {len(self.aside):,}  (another part of the publication)")
        lines.append(f"  refused         {len(self.refused):,}")
        lines += [f"    {path}: {why}" for path, why in self.refused]
        lines.append(f"  not recognised  {len(self.not_recognised):,}")
        lines += [f"    {path}" for path in self.not_recognised]
        if self.tables:
            lines.append(f"  label table     {', '.join(self.tables)}")
            lines.append(f"  missing         {len(self.missing):,}  (listed in the label table)")
            lines += [f"    {name}" for name in self.missing]
        return "\n".join(lines)


def _pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    return [(rows[i], rows[j]) for i, j in equal_pairs([row.sha256 for row in rows])]


def _of_each(rows: Sequence[Row]) -> str:
    counts = Counter(row.label or "unlabelled" for row in rows)
    return ", ".join(f"{n:,} {label}" for label, n in sorted(counts.items()))


def _duplicates(rows: Sequence[Row]) -> str:
    pairs = _pairs(rows)
    text = f"{len(pairs):,} byte-identical pairs"
    if any(row.subject for row in rows):
        across = Counter("/".join(sorted((a.subject, b.subject))) for a, b in pairs if a.subject != b.subject)
        each = ", ".join(f"{names} {n}" for names, n in across.most_common())
        text += f": {len(pairs) - across.total():,} within a subject, {across.total():,} across subjects"
        text += f" ({each})" if each else ""
    if across_labels := sum(a.label != b.label for a, b in pairs):
        text += f"; {across_labels} UNDER DIFFERENT LABELS"
    return text + "; all kept, see duplicate_of" if pairs else "none"
