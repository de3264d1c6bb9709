"""Offline only: data sets, phantoms, fitting, calibration, evaluation, bundle export."""
