"""Batches and what arrives for them."""
