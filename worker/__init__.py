"""The Celery workers: they take chunks through the five stages and never hold the only copy of anything."""

import os

# before anything of Celery's is imported, by whichever module comes first: SIGTERM gives running tasks the
# soft-shutdown time, then ends them
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
