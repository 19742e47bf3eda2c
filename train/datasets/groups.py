"""What belongs together: images linked by equal bytes, subjects linked by shared images. Pure functions."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

# Subjects of C-NMC 2019 who are one person although none of their files are equal: the publication holds the same
# cells under both names, photographed or segmented twice. Found by correlating the texture inside all cells of folds
# 0, 1 and a part of 2, shifted by up to 8 px, across groups, and then looked at. Given is how many cells correlate
# above 0.7; of pairs of unrelated cells one in 100,000 reaches 0.56. Nine more subjects of fold 2 (H8, H9, H13, H23,
# H46; 13, 18, 67, 74) were compared with all of these cells in the same way. The rest of fold 2 and the test sets were
# not examined.
SAME_PERSON = (
    ("H14", "H24"),  # 29 cells
    ("43", "44"),  # 12
    ("H2", "H7"),  # 11
    ("17", "20"),  # 5
    ("17", "18"),  # 1, at 0.97; subject 18 is one of the nine that came with a later part of fold 2
    ("1", "15"),  # 2
    ("1", "17"),  # 2
    ("16", "20"),  # 1
)


def components(n: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Connected components of `n` items: each item's component is named by the component's smallest item."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(i) for i in range(n)]


def equal_pairs(hashes: Sequence[str]) -> list[tuple[int, int]]:
    """All pairs (i, j), i < j, of items with equal hashes; three equal items make three pairs."""
    where = defaultdict(list)
    for i, value in enumerate(hashes):
        where[value].append(i)
    return [pair for items in where.values() for pair in combinations(items, 2)]


def first_copies(hashes: Sequence[str]) -> list[int | None]:
    """For each item the first earlier item with the same hash, None for the first copy itself."""
    first: dict[str, int] = {}
    return [None if first.setdefault(value, i) == i else first[value] for i, value in enumerate(hashes)]


def link_subjects(subjects: Sequence[str], hashes: Sequence[str], same: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Each image's group: its subject, joined with every subject it is linked to by byte-identical images.

    `same` are further pairs of subjects to link, where both occur. A group is named by its subjects in string
    order, such as "H10+H3".
    """
    names = sorted(set(subjects))
    number = {name: k for k, name in enumerate(names)}
    links = [(number[subjects[i]], number[subjects[j]]) for i, j in equal_pairs(hashes)]
    links += [(number[a], number[b]) for a, b in same if a in number and b in number]
    members = defaultdict(list)
    root = components(len(names), links)
    for name, k in zip(names, root, strict=True):
        members[k].append(name)
    return ["+".join(members[root[number[subject]]]) for subject in subjects]
