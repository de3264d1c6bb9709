"""Data sets, runs of bundles over them, and comparisons."""
