"""Batches and what is sent for them."""
