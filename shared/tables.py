"""The service's tables as it made them: the one definition that tests, the demo and benchmarks create them from.

The service owns these tables. Production code never creates or changes one, and says what it does to their rows in SQL.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID

metadata = sa.MetaData()


def _when(name: str, *, null: bool = False, default: bool = False) -> sa.Column[datetime]:
    return sa.Column(
        name, sa.TIMESTAMP(timezone=True), nullable=null, server_default=sa.func.now() if default else None
    )


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null)


def _short(name: str, length: int, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=null)


def _number(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=null, server_default=None if null else "0")


def _id() -> sa.Column[str]:
    return sa.Column("id", UUID(as_uuid=False), primary_key=True, server_default=sa.func.gen_random_uuid())


def _to(name: str, target: str, *, ondelete: str | None = "CASCADE", null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.ForeignKey(target, ondelete=ondelete), nullable=null)


users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("email", sa.String(255), nullable=False, unique=True),
    _text("display_name", null=True),
    _text("photo_url", null=True),
    _when("created_at", default=True),
    _when("updated_at", default=True),
)

subscription_plans = sa.Table(
    "subscription_plans",
    metadata,
    sa.Column("code", sa.Text, primary_key=True),
    _text("display_name"),
    _number("pages_included"),
    _number("automations_limit"),
    _number("overage_cents"),
    _text("stripe_product_id", null=True),
    _text("stripe_price_recurring_id", null=True),
    _text("stripe_price_metered_id", null=True),
    sa.Column("is_active", sa.Boolean, nullable=False, server_default="true"),
    _number("sort_order"),
    _when("created_at", default=True),
    _when("updated_at", default=True),
)

billing_accounts = sa.Table(
    "billing_accounts",
    metadata,
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    _to("plan_code", "subscription_plans.code", ondelete=None),
    _text("stripe_customer_id", null=True),
    _text("stripe_subscription_id", null=True),
    _when("current_period_start", null=True),
    _when("current_period_end", null=True),
    sa.Column("status", sa.Text, nullable=False, server_default="active"),
    _when("created_at", default=True),
    _when("updated_at", default=True),
)

extraction_jobs = sa.Table(
    "extraction_jobs",
    metadata,
    _id(),
    _short("name", 255, null=True),
    _to("user_id", "users.id"),
    _when("last_active_at", default=True),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    _when("created_at", default=True),
)

templates = sa.Table("templates", metadata, _id(), _text("name"))
data_types = sa.Table("data_types", metadata, sa.Column("id", sa.Text, primary_key=True), _text("display_name"))

job_runs = sa.Table(
    "job_runs",
    metadata,
    _id(),
    _to("job_id", "extraction_jobs.id"),
    _to("template_id", "templates.id", ondelete="SET NULL", null=True),
    _to("append_from_run_id", "job_runs.id", ondelete="SET NULL", null=True),
    _short("config_step", 20),
    _short("status", 50),
    _number("tasks_total"),
    _number("tasks_completed"),
    _number("tasks_failed"),
    sa.Column("persist_data", sa.Boolean, nullable=False, server_default="true"),
    _text("description", null=True),
    _when("last_active_at", default=True),
    _when("created_at", default=True),
    _when("completed_at", null=True),
)
sa.Index("ix_job_runs_job_id_created_at", job_runs.c.job_id, job_runs.c.created_at.desc())
sa.Index("ix_job_runs_status", job_runs.c.status)

job_fields = sa.Table(
    "job_fields",
    metadata,
    _id(),
    _to("job_run_id", "job_runs.id"),
    _text("field_name"),
    _to("data_type_id", "data_types.id", ondelete=None),
    _text("ai_prompt"),
    _number("display_order"),
    sa.Index("ix_job_fields_job_run_id", "job_run_id"),
)

source_files = sa.Table(
    "source_files",
    metadata,
    _id(),
    _to("job_run_id", "job_runs.id"),
    _text("original_filename"),
    _text("original_path"),
    sa.Column("gcs_object_name", sa.Text, nullable=False, unique=True),
    _short("file_type", 100),
    sa.Column("file_size_bytes", sa.BigInteger, nullable=False),
    _number("page_count", null=True),
    _short("status", 50),
    _short("source_type", 20),
    _text("external_id", null=True),
    _when("updated_at", default=True),
    sa.Index("ix_source_files_job_run_id", "job_run_id"),
)

extraction_tasks = sa.Table(
    "extraction_tasks",
    metadata,
    _id(),
    _to("job_run_id", "job_runs.id"),
    _text("processing_mode"),
    _text("status"),
    _text("error_message", null=True),
    _when("created_at", default=True),
    _when("processed_at", null=True),
    _number("result_set_index"),
    sa.Index("ix_extraction_tasks_job_run_id", "job_run_id"),
)

source_files_to_tasks = sa.Table(
    "source_files_to_tasks",
    metadata,
    sa.Column("source_file_id", sa.ForeignKey("source_files.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("task_id", sa.ForeignKey("extraction_tasks.id", ondelete="CASCADE"), primary_key=True),
)

extraction_results = sa.Table(
    "extraction_results",
    metadata,
    _id(),
    sa.Column("task_id", sa.ForeignKey("extraction_tasks.id", ondelete="CASCADE"), nullable=False, unique=True),
    sa.Column("extracted_data", JSONB, nullable=False),
    _when("processed_at", default=True),
)

job_exports = sa.Table(
    "job_exports",
    metadata,
    _id(),
    _to("job_run_id", "job_runs.id"),
    sa.Column("dest_type", sa.Text, sa.CheckConstraint("dest_type IN ('download', 'gdrive', 'gmail')"), nullable=False),
    sa.Column("file_type", sa.Text, sa.CheckConstraint("file_type IN ('csv', 'xlsx')"), nullable=False),
    _text("status"),
    _text("external_id", null=True),
    _text("error_message", null=True),
    _when("created_at", default=True),
    _when("updated_at", default=True),
    sa.Index("ix_job_exports_job_run_id", "job_run_id"),
)

automations = sa.Table(
    "automations",
    metadata,
    _id(),
    _to("user_id", "users.id"),
    _text("name"),
    sa.Column("is_enabled", sa.Boolean, nullable=False, server_default="true"),
    _text("trigger_type"),
    sa.Column("trigger_config", JSONB, nullable=False),
    _to("job_id", "extraction_jobs.id"),
    _text("processing_mode"),
    sa.Column("append_results", sa.Boolean, nullable=False, server_default="false"),
    _text("dest_type", null=True),
    sa.Column("export_config", JSONB, nullable=True),
    _when("created_at", default=True),
    _when("updated_at", default=True),
)

automation_runs = sa.Table(
    "automation_runs",
    metadata,
    _id(),
    _to("automation_id", "automations.id"),
    _to("job_run_id", "job_runs.id"),
    _text("status"),
    _text("error_message", null=True),
    _number("imports_total", null=True),
    _number("imports_processed", null=True),
    _number("imports_failed", null=True),
    _when("triggered_at", default=True),
    _when("completed_at", null=True),
    sa.Index("ix_automation_runs_job_run_id", "job_run_id"),
)

usage_events = sa.Table(
    "usage_events",
    metadata,
    _id(),
    _to("user_id", "users.id"),
    _when("occurred_at", default=True),
    _text("source"),
    _to("task_id", "extraction_tasks.id", ondelete="SET NULL", null=True),
    sa.Column("pages", sa.Integer, sa.CheckConstraint("pages >= 0"), nullable=False),
    sa.Column("stripe_reported", sa.Boolean, nullable=False, server_default="false"),
    _text("stripe_record_id", null=True),
    _text("notes", null=True),
)

usage_counters = sa.Table(
    "usage_counters",
    metadata,
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("period_start", sa.TIMESTAMP(timezone=True), primary_key=True),
    _when("period_end"),
    _number("pages_total"),
)
