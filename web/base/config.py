"""The settings that the application was made with."""

from __future__ import annotations

from flask import current_app

from settings import Settings


def current_settings() -> Settings:
    """Return the settings of the application that answers the request."""
    settings: Settings = current_app.extensions["settings"]
    return settings
