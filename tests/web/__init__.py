"""Tests of the web front."""
