"""What all tables share. Times are UTC, sizes bytes, digests SHA-256 in lower-case hexadecimal."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, MetaData, String, TypeDecorator, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, UTC in and out. SQLite would forget the zone, PostgreSQL would answer in the session's."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"times in the database are aware, got the naive {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite numbers rows by itself only in a column declared INTEGER.
BigId = BigInteger().with_variant(Integer, "sqlite")
Json = JSON(none_as_null=True)
Digest = String(64)
JobId = String(32)

DEFAULT_PROJECT = "default"
"""The project of everything where no keys are asked for, and of all that was stored before there were projects."""


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class OfProject:
    """A row that belongs to a project; no statement that answers a caller may leave the column out."""

    project_id: Mapped[str] = mapped_column(String(32), server_default=text(f"'{DEFAULT_PROJECT}'"))
