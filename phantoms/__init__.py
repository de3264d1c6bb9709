"""Synthetic radiographs: the anatomy as data, and a simulator of film; for training, demo and tests."""
