"""What the cleanups must remember: what is held, the objects to delete, each erasure, and what operators did.

No foreign key leads to the service's tables: their rows come and go.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE maintenance.holds (
            id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            scope      text NOT NULL CHECK (scope IN ('user', 'job', 'run')),
            subject    text NOT NULL,
            reason     text NOT NULL,
            until      timestamptz,
            by         text NOT NULL,
            created_at timestamptz NOT NULL,
            -- As PostgreSQL writes a uuid: holds are found by their text.
            CHECK (scope = 'user' OR subject = CAST(CAST(subject AS uuid) AS text))
        )
        """
    )
    op.execute("COMMENT ON TABLE maintenance.holds IS 'What no cleanup may take: of a user, a job or a run.'")
    # Batches hold this lock shared, from before they look for holds until they have committed.
    op.execute(
        """
        CREATE FUNCTION maintenance.wait_for_batches() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('maintenance.holds'), 0);
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER wait_for_batches BEFORE INSERT OR UPDATE ON maintenance.holds "
        "FOR EACH STATEMENT EXECUTE FUNCTION maintenance.wait_for_batches()"
    )
    op.execute(
        """
        CREATE TABLE maintenance.operator_actions (
            id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            at        timestamptz NOT NULL,
            by        text NOT NULL,
            action    text NOT NULL,
            arguments jsonb NOT NULL DEFAULT '{}',
            reason    text
        )
        """
    )
    op.execute("COMMENT ON TABLE maintenance.operator_actions IS 'Who did what by hand, with which arguments.'")
    op.execute(
        """
        CREATE TABLE maintenance.erasures (
            id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            job          text NOT NULL,
            run_id       bigint NOT NULL,
            job_run_id   uuid NOT NULL,
            user_hash    bytea NOT NULL,
            extent       text NOT NULL CHECK (extent IN ('run', 'content')),
            row_counts   jsonb NOT NULL,
            objects      bigint NOT NULL DEFAULT 0,
            bytes        bigint NOT NULL DEFAULT 0,
            erased_at    timestamptz NOT NULL,
            completed_at timestamptz,
            copies       text CHECK (copies IN ('none', 'soft_delete', 'versions')),
            copies_until timestamptz
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE maintenance.erasures IS "
        "'One for each erased run: the proof, with no content. Complete when its objects are gone; copies says what of "
        "them the bucket still keeps: with versions for as long as the bucket''s owner lets it.'"
    )
    op.execute("CREATE INDEX erasures_user ON maintenance.erasures (user_hash)")
    op.execute("CREATE INDEX erasures_open ON maintenance.erasures (id) WHERE completed_at IS NULL")
    op.execute(
        """
        CREATE TABLE maintenance.object_deletions (
            id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            bucket          text NOT NULL,
            object_name     text NOT NULL,
            generation      bigint,
            kind            text NOT NULL CHECK (kind IN ('source', 'conversion', 'zip', 'temp_upload', 'orphan')),
            source_file_id  uuid,
            job_run_id      uuid,
            erasure_id      bigint,
            run_id          bigint NOT NULL,
            state           text NOT NULL DEFAULT 'pending' CHECK (state IN (
                                'pending', 'deleted', 'absent', 'held', 'superseded', 'failed')),
            attempts        integer NOT NULL DEFAULT 0,
            claimed_until   timestamptz,
            next_attempt_at timestamptz NOT NULL,
            bytes           bigint,
            requested_at    timestamptz NOT NULL,
            done_at         timestamptz,
            error           text,
            CHECK ((done_at IS NULL) = (state IN ('pending', 'held', 'failed')))
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE maintenance.object_deletions IS "
        "'Objects that must leave the bucket. A row of kind source stands for the object and for its conversion. Once "
        "done, the name is replaced by its sha256.'"
    )
    op.execute(
        "CREATE INDEX object_deletions_open ON maintenance.object_deletions (next_attempt_at) WHERE done_at IS NULL"
    )
    # By hash: a name of any length can be looked up.
    op.execute(
        "CREATE INDEX object_deletions_names ON maintenance.object_deletions USING hash (object_name) "
        "WHERE done_at IS NULL"
    )
    op.execute(
        "CREATE INDEX object_deletions_erasure ON maintenance.object_deletions (erasure_id) "
        "WHERE erasure_id IS NOT NULL"
    )
    op.execute("ALTER TABLE maintenance.identity ADD COLUMN erasure_key bytea")
    # 32 bytes that nobody can guess: each uuid has 122 random bits.
    op.execute(
        """
        ALTER TABLE maintenance.identity ALTER COLUMN erasure_key
        SET DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
        """
    )
    op.execute("UPDATE maintenance.identity SET erasure_key = DEFAULT")
    op.execute("ALTER TABLE maintenance.identity ALTER COLUMN erasure_key SET NOT NULL")
