"""Labelled radiographs on disk: readers of published data sets, splits by group, the pixel cache."""

from training.datasets.example import Dataset, DatasetError, Example, Polygon
from training.datasets.formats import AUTO, FORMATS, detect_format, open_dataset
from training.datasets.fracatlas import read_fracatlas
from training.datasets.pixels import CACHE_SIDE, hashed, load_pixels
from training.datasets.scan import Scan, scan
from training.datasets.splits import Split, SplitPlan, make_split, read_split, split_by_group, write_split
from training.datasets.synthetic import phantom_examples

__all__ = [
    "AUTO",
    "CACHE_SIDE",
    "FORMATS",
    "Dataset",
    "DatasetError",
    "Example",
    "Polygon",
    "Scan",
    "Split",
    "SplitPlan",
    "detect_format",
    "hashed",
    "load_pixels",
    "make_split",
    "open_dataset",
    "phantom_examples",
    "read_fracatlas",
    "read_split",
    "scan",
    "split_by_group",
    "write_split",
]
