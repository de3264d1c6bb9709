"""The page of settings says what settings.py holds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import redis
from kombu.utils.url import url_to_parts
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from settings import Settings, SettingsError, from_environ
from tests.conftest import ROOT


def test_the_page_is_made_from_the_settings_and_names_each() -> None:
    made = subprocess.run([sys.executable, ROOT / "scripts" / "settings_table.py", "--check"], check=False)
    assert made.returncode == 0, "run python scripts/settings_table.py"
    page = (ROOT / "docs" / "settings.md").read_text()
    for field in fields(Settings):
        assert f"| `FRACTUREAI_{field.name.upper()}` |" in page


@pytest.mark.parametrize("password", ["a@b/c:d", "50% #?&", "ü ☃", "it's \\"])
def test_a_password_of_any_letters_comes_apart_from_its_address(password: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(password + "\n")
    read = from_environ(
        {
            "FRACTUREAI_DATABASE_URL": "postgresql://app@db.internal:5432/fractureai",
            "FRACTUREAI_DATABASE_PASSWORD_FILE": str(secret),
            "FRACTUREAI_BROKER_URL": "redis://:old@valkey:6379/0",
            "FRACTUREAI_BROKER_PASSWORD": password,
        }
    )
    address = make_url(read.database_url)
    assert (address.username, address.password, address.host) == ("app", password, "db.internal")
    assert conninfo_to_dict(read.database_url)["password"] == password
    assert redis.ConnectionPool.from_url(read.broker_url).connection_kwargs["password"] == password
    assert url_to_parts(read.broker_url).password == password
    assert password not in repr(read)


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("k" * 32 + "\n")
    assert from_environ({"FRACTUREAI_SECRET_KEY_FILE": str(secret)}).secret_key == "k" * 32
    both = {"FRACTUREAI_SECRET_KEY_FILE": str(secret), "FRACTUREAI_SECRET_KEY": "said"}
    assert from_environ(both).secret_key == "said"
    with pytest.raises(SettingsError, match="SMTP_PASSWORD_FILE"):
        from_environ({"FRACTUREAI_SMTP_PASSWORD_FILE": str(tmp_path / "none")})


def test_an_empty_variable_counts_as_not_set() -> None:
    given = {"FRACTUREAI_SMTP_PORT": "", "FRACTUREAI_SMTP_FROM": "", "FRACTUREAI_SECRET_KEY_FILE": ""}
    assert from_environ(given) == Settings()
