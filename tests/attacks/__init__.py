"""Attacks from outside, each of which a server has to refuse: ``python -m tests.attacks URL --key KEY``."""
