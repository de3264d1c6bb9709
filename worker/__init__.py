"""The Celery workers: they take chunks through the five stages and never hold the only copy of anything."""
