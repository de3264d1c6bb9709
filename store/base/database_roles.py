"""The database's accounts: one owns the tables and changes them, another reads and writes their rows."""

from __future__ import annotations

from sqlalchemy import Connection, make_url, text

from settings import Settings

#: What the application may do with tables that hold what must not be changed; with others, with every row.
_LIMITED = {"audit": "SELECT, INSERT", "audit_chain": "SELECT", "alembic_version": "SELECT"}


def grant_application(connection: Connection, settings: Settings) -> None:
    """Grant the role of `database_url` what the application needs, and no more; create it if missing.

    Does nothing where the owner's account is the application's: `database_owner_url` is not set. Where the
    owner may make no accounts, the database's administrator has made this one, with its password.
    """
    if not settings.database_owner_url:
        return
    address = make_url(settings.database_url)
    name = address.username or ""
    may_make = connection.scalar(
        text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    )
    known = connection.scalar(text("SELECT true FROM pg_roles WHERE rolname = :name"), {"name": name})
    if connection.scalar(text("SELECT current_user")) == name:
        return
    if may_make:
        verb = "ALTER" if known else "CREATE"
        raw = connection.connection.driver_connection
        assert raw is not None
        # hashed here: a statement may be logged
        password = raw.pgconn.encrypt_password(
            str(address.password or "").encode(), name.encode(), b"scram-sha-256"
        ).decode()
        _run(
            connection,
            f"{verb} ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD %L",
            name,
            password,
        )
    _run(connection, "GRANT USAGE ON SCHEMA public TO %I", name)
    _run(connection, "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I", name)
    _run(connection, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %I", name)
    _run(connection, "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO %I", name)
    for table, rights in _LIMITED.items():
        if connection.scalar(text("SELECT to_regclass(:table)"), {"table": f"public.{table}"}) is not None:
            _run(connection, f"REVOKE ALL ON public.{table} FROM %I", name)
            _run(connection, f"GRANT {rights} ON public.{table} TO %I", name)


def _run(connection: Connection, statement: str, *words: str) -> None:
    """Run a statement of the kind that takes no parameters; the server quotes the words."""
    names = {f"w{n}": word for n, word in enumerate(words)}
    places = ", ".join(f"CAST(:{name} AS text)" for name in names)
    quoted = connection.scalar(
        text(f"SELECT format(:statement, {places})"), {"statement": statement, **names}
    )
    connection.exec_driver_sql(str(quoted))
