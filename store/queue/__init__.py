"""Work as rows: leases, attempts, counters, and the only place that publishes to Celery."""
