"""Audit, notices, retention and erasure, consistency checks, monitoring."""
