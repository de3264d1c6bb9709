"""The running service of the worker's tests, for breaking."""

from tests.worker.conftest import (
    cache_folder,
    pictures,
    service,
    service_settings,
    site_id,
    untrained_bundle,
)

__all__ = ["cache_folder", "pictures", "service", "service_settings", "site_id", "untrained_bundle"]
