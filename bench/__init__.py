"""Measurements that anyone can repeat: each module prints figures when run with ``python -m``."""
