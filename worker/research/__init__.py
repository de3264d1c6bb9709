"""Runs over several bundles: their scores, and what they amount to."""
