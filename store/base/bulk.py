"""Many rows in one statement, whose text is the same however many they are.

The rows go as one JSON parameter. A list of values, or a statement a row, takes several times as long: each
length is another statement to compile, to parse and to plan, or each row goes through the driver by itself.
"""

from __future__ import annotations

import json
import math
import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Table,
    Text,
    any_,
    bindparam,
    column,
    func,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import ARRAY, JSON, Insert, insert
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.dml import Update

from store.base.tables import Base

Row = Mapping[str, Any]


def among(attribute: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Return the condition that a column has one of the values; unlike `in_`, one text for all lengths."""
    return attribute == any_(literal(list(values), ARRAY(attribute.type)))


def insert_rows(table: type[Base], names: Sequence[str]) -> Insert:
    """Return a statement that inserts rows with these columns; execute it with `parameter`.

    Columns that are not named get the database's own defaults, not those of the mapping.
    """
    return _insert(cast(Table, table.__table__), tuple(names))


def update_rows(table: type[Base], names: Sequence[str]) -> Update:
    """Return a statement that sets these columns of rows by their `id`; execute it with `parameter`."""
    return _update(cast(Table, table.__table__), tuple(names))


def parameter(rows: Sequence[Row]) -> dict[str, str]:
    """Return what the statements above are executed with; `rows` have the columns named, and their `id`."""
    try:
        return {"rows": json.dumps(rows, default=_plain, allow_nan=False)}
    except ValueError:  # JSON knows no NaN; the database reads it as a word
        finite = [{name: _finite(value) for name, value in row.items()} for row in rows]
        return {"rows": json.dumps(finite, default=_plain, allow_nan=False)}


def _plain(value: object) -> str:
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return rf"\x{value.hex()}"
    raise TypeError(f"no column of a row: {type(value).__name__}")


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _records(table: Table, names: Sequence[str]) -> Any:
    rows = sql_cast(bindparam("rows", type_=Text), JSON)
    typed = (column(name, table.c[name].type) for name in names)
    return func.json_to_recordset(rows).table_valued(*typed).render_derived(name="given", with_types=True)


@cache
def _insert(table: Table, names: tuple[str, ...]) -> Insert:
    given = _records(table, names)
    return insert(table).from_select(
        names, select(*(given.c[name] for name in names)), include_defaults=False
    )


@cache
def _update(table: Table, names: tuple[str, ...]) -> Update:
    given = _records(table, ("id", *names))
    values = {table.c[name]: given.c[name] for name in names}
    return update(table).where(table.c.id == given.c.id).values(values)


def write_changed(session: Session, rows: Sequence[Base]) -> None:
    """Write what was changed in loaded rows of one table, as a flush does; rows changed alike together.

    The rows need not belong to the session.

    What a row was given that is an expression of SQL is read from the database when it is next asked for.
    """
    groups: defaultdict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], list[Base]] = defaultdict(list)
    for row in rows:
        plain, computed = [], []
        for name, before in inspect(row).committed_state.items():
            value = row.__dict__[name]
            if isinstance(value, ColumnElement):
                computed.append((name, str(value)))
            elif value != before:
                plain.append(name)
        if plain or computed:
            groups[tuple(sorted(plain)), tuple(sorted(computed))].append(row)
    connection = session.connection()
    for (plain_names, computed_names), changed in groups.items():
        table = cast(Table, changed[0].__table__)
        statement = _update(table, plain_names)
        if computed_names:
            statement = statement.values({table.c[n]: changed[0].__dict__[n] for n, _ in computed_names})
        given = [{"id": row.__dict__["id"], **{n: row.__dict__[n] for n in plain_names}} for row in changed]
        connection.execute(statement, parameter(given))
        for row in changed:
            state = inspect(row)
            state._commit_all(state.dict, session.identity_map)
            state._expire_attributes(state.dict, [n for n, _ in computed_names])
