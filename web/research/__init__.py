"""Data sets, runs over several bundles, comparisons."""
