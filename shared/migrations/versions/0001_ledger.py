"""The ledger of runs, the fences, the environment that the database belongs to, and the operator's pauses.

No foreign key leads to the service's tables: their rows come and go.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE maintenance.runs (
            id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            job         text NOT NULL,
            shard       integer NOT NULL DEFAULT 0,
            slot        timestamptz,
            step        integer NOT NULL DEFAULT 0,
            trigger     text NOT NULL CHECK (trigger IN ('schedule', 'manual', 'cli', 'task')),
            status      text NOT NULL CHECK (status IN (
                            'running', 'completed', 'incomplete', 'failed', 'refused', 'unavailable',
                            'misconfigured', 'fenced', 'lost', 'paused')),
            dry_run     boolean NOT NULL,
            started_at  timestamptz NOT NULL,
            finished_at timestamptz,
            deadline_at timestamptz NOT NULL,
            counts      jsonb NOT NULL DEFAULT '{}',
            message     text,
            error_type  text,
            error_id    text,
            revision    text
        )
        """
    )
    op.execute("COMMENT ON TABLE maintenance.runs IS 'Every run of a job; its id is its fencing token.'")
    op.execute(
        """
        CREATE UNIQUE INDEX runs_completed_slot ON maintenance.runs (job, shard, slot)
        WHERE status = 'completed' AND slot IS NOT NULL
        """
    )
    op.execute("CREATE INDEX runs_slot ON maintenance.runs (job, shard, slot) WHERE slot IS NOT NULL")
    op.execute("CREATE INDEX runs_running ON maintenance.runs (job, shard) WHERE status = 'running'")
    op.execute("CREATE INDEX runs_history ON maintenance.runs (job, started_at)")
    op.execute(
        """
        CREATE TABLE maintenance.fences (
            job    text NOT NULL,
            shard  integer NOT NULL,
            run_id bigint NOT NULL,
            PRIMARY KEY (job, shard)
        )
        """
    )
    op.execute("COMMENT ON TABLE maintenance.fences IS 'The one run of each job that may write. It only ever rises.'")
    op.execute(
        """
        CREATE TABLE maintenance.identity (
            only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
            instance       text NOT NULL,
            database       text NOT NULL,
            bucket         text,
            stripe_account text,
            livemode       boolean,
            bound_at       timestamptz NOT NULL
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE maintenance.identity IS "
        "'The environment that this database belongs to. A copy elsewhere is refused by every job.'"
    )
    op.execute(
        """
        CREATE TABLE maintenance.controls (
            job          text PRIMARY KEY,
            paused_until timestamptz NOT NULL,
            by           text NOT NULL,
            why          text NOT NULL
        )
        """
    )
    op.execute("COMMENT ON TABLE maintenance.controls IS 'The operator''s pauses, one a job.'")
