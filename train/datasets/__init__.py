"""Published images -> prepared datasets -> splits. `python -m train.datasets` prepares them.

A prepared dataset is a folder that `datasets.load_dataset("imagefolder")` reads: images and a metadata.csv.
"""

from train.datasets.rows import METADATA, Row, dataset_hash, labels_of, level_of, load_rows, own_dataset

__all__ = ["METADATA", "Row", "dataset_hash", "labels_of", "level_of", "load_rows", "own_dataset"]
