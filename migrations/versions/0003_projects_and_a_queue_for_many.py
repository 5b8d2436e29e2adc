"""Projects and their keys, a queue that many workers share, webhooks, logs of jobs.

Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
COMPLETE = sa.text("state = 'complete'")
# What was stored before there were projects belongs to this one.
DEFAULT = "default"


def upgrade() -> None:
    _own_what_is_there()
    _add_columns()
    _drop_columns()
    _create_access()
    _create_webhooks()
    _create_open_uploads()
    _create_job_uploads()
    _create_descriptions()
    op.create_table(
        "job_logs",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_logs_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_job_logs"),
    )
    op.create_table(
        "chunk_claims",
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("lease_until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "key", name="pk_chunk_claims"),
    )
    op.create_index("ix_chunk_claims_lease_until", "chunk_claims", ["lease_until"])
    op.create_table(
        "stage_seconds",
        sa.Column("stage", sa.String(64), nullable=False),
        sa.Column("upper_seconds", sa.Float(), nullable=False),
        sa.Column("runs", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("stage", "upper_seconds", name="pk_stage_seconds"),
    )


def _own_what_is_there() -> None:
    for table in ("blobs", "jobs"):
        op.add_column(table, _project())
    op.drop_index("uq_blobs_sha256_complete", "blobs")
    op.create_index(
        "uq_blobs_project_id_sha256_complete",
        "blobs",
        ["project_id", "sha256"],
        unique=True,
        sqlite_where=COMPLETE,
        postgresql_where=COMPLETE,
    )
    op.create_index("ix_jobs_project_id_created_at_id", "jobs", ["project_id", "created_at", "id"])
    keys = {"uploads": ["kind", "id"], "stage_results": ["key"], "idempotency": ["scope", "key"]}
    for table, key in keys.items():
        # SQLite changes a primary key by copying the table; nothing refers to these three.
        with op.batch_alter_table(table) as batch:
            batch.add_column(_project())
            batch.drop_constraint(f"pk_{table}", type_="primary")
            batch.create_primary_key(f"pk_{table}", ["project_id", *key])


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.String(32), nullable=False, server_default=sa.text(f"'{DEFAULT}'"))


def _add_columns() -> None:
    columns = {
        "blobs": [sa.Column("location", sa.Text())],
        "uploads": [
            sa.Column("used_at", TIME),
            sa.Column("tags", sa.JSON()),
            sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()),
        ],
        "jobs": [
            sa.Column("name", sa.String(255)),
            sa.Column("tags", sa.JSON()),
            sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("0")),
            sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()),
            sa.Column("trace", sa.String(255)),
            sa.Column("fruitless", sa.Integer(), nullable=False, server_default=sa.text("0")),
            sa.Column("open_chunks", sa.Integer(), nullable=False, server_default=sa.text("0")),
        ],
        "stage_results": [sa.Column("used_at", TIME)],
        "workers": [
            sa.Column("progressed_at", TIME),
            sa.Column("job_id", sa.String(32)),
            sa.Column("processor", sa.String(255)),
        ],
    }
    for table, added in columns.items():
        for column in added:
            op.add_column(table, column)


def _drop_columns() -> None:
    """Workers look into the queue themselves: nobody counts announcements, and attempts count without progress."""
    op.drop_index("ix_jobs_state_announce_at", "jobs")
    for column in ("announce_at", "announcements", "released"):
        op.drop_column("jobs", column)


def _create_access() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("claimed_at", TIME),
        sa.Column("described_at", TIME),
        sa.Column("max_bytes", sa.BigInteger()),
        sa.Column("max_queued", sa.Integer()),
        sa.Column("max_running", sa.Integer()),
        sa.Column("max_samples", sa.Integer()),
        sa.Column("max_requests_per_minute", sa.Integer()),
        sa.Column("keep_days", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )
    projects = sa.table("projects", sa.column("id"), sa.column("name"), sa.column("created_at"))
    op.execute(projects.insert().values(id=DEFAULT, name=DEFAULT, created_at=sa.func.current_timestamp()))
    op.create_table(
        "keys",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("label", sa.String(255)),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("used_at", TIME),
        sa.CheckConstraint("role IN ('admin', 'member', 'viewer')", name=op.f("ck_keys_role")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_keys_project_id_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("sha256", name="uq_keys_sha256"),
    )
    op.create_index("ix_keys_project_id", "keys", ["project_id"])
    op.create_table(
        "audit",
        sa.Column("id", NUMBER, autoincrement=True, nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(16)),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text()),
        sa.Column("detail", sa.JSON()),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_project_id_at_id", "audit", ["project_id", "at", "id"])


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        _project(),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(255), nullable=False),
        sa.Column("events", sa.JSON()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("failing_since", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_index("ix_webhooks_project_id", "webhooks", ["project_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("webhook_id", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(32)),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(9), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("give_up_at", TIME, nullable=False),
        sa.Column("tried_at", TIME),
        sa.Column("status", sa.Integer()),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("delivered_at", TIME),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_state")),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_webhook_deliveries_webhook_id_webhooks"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    op.create_index(
        "ix_webhook_deliveries_webhook_id_created_at_id", "webhook_deliveries", ["webhook_id", "created_at", "id"]
    )
    op.create_index("ix_webhook_deliveries_state_next_at", "webhook_deliveries", ["state", "next_at"])


def _create_open_uploads() -> None:
    op.create_table(
        "open_uploads",
        _project(),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("name", sa.String(255)),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("received_bytes", sa.BigInteger(), nullable=False),
        sa.Column("blob_id", NUMBER),
        sa.Column("upload_id", sa.String(64)),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.CheckConstraint("kind IN ('model', 'dataset')", name=op.f("ck_open_uploads_kind")),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name="fk_open_uploads_blob_id_blobs"),
        sa.PrimaryKeyConstraint("id", name="pk_open_uploads"),
    )
    for column in ("project_id", "blob_id", "expires_at"):
        op.create_index(f"ix_open_uploads_{column}", "open_uploads", [column])


def _create_job_uploads() -> None:
    op.create_table(
        "job_uploads",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("upload_id", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_uploads_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "kind", "upload_id", name="pk_job_uploads"),
    )
    op.create_index("ix_job_uploads_upload_id", "job_uploads", ["upload_id"])
    job_uploads = sa.table("job_uploads", sa.column("job_id"), sa.column("kind"), sa.column("upload_id"))
    jobs = sa.table(
        "jobs", sa.column("id"), sa.column("model_id"), sa.column("dataset_id"), sa.column("request", sa.JSON())
    )
    read = (
        ("model", jobs.c.model_id),
        ("dataset", jobs.c.dataset_id),
        ("model", jobs.c.request["quantized_id"].as_string()),
        ("model", jobs.c.request[("budget", "metric_id")].as_string()),
    )
    # UNION names an upload once that a job reads twice.
    known = sa.union(*(sa.select(jobs.c.id, sa.literal(kind), which).where(which.is_not(None)) for kind, which in read))
    op.execute(job_uploads.insert().from_select(["job_id", "kind", "upload_id"], known))


def _create_descriptions() -> None:
    op.create_table(
        "descriptions",
        _project(),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("upload_id", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("owner", sa.String(255)),
        sa.Column("lease_until", TIME),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("document", sa.JSON()),
        sa.Column("problem_code", sa.String(64)),
        sa.Column("problem_detail", sa.Text()),
        sa.Column("asked_at", TIME, nullable=False),
        sa.CheckConstraint("state IN ('pending', 'ready', 'failed')", name=op.f("ck_descriptions_state")),
        sa.CheckConstraint("(state = 'ready') = (document IS NOT NULL)", name=op.f("ck_descriptions_document")),
        sa.CheckConstraint("(state = 'failed') = (problem_code IS NOT NULL)", name=op.f("ck_descriptions_problem")),
        sa.ForeignKeyConstraint(
            ["project_id", "kind", "upload_id"],
            ["uploads.project_id", "uploads.kind", "uploads.id"],
            name="fk_descriptions_upload",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "kind", "upload_id", name="pk_descriptions"),
    )
    op.create_index("ix_descriptions_state_asked_at", "descriptions", ["state", "asked_at"])


def downgrade() -> None:
    raise NotImplementedError("projects cannot be merged into one again; restore a backup from before this version")
