"""Health, audit trail, notices, retention and erasure."""
