"""What stripe_reconcile must remember: each event's way to Stripe, differences found, and where a feed goes on.

No foreign key leads to the service's tables: a frozen send goes its way although its event is gone.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE maintenance.meter_sends (
            usage_event_id     uuid PRIMARY KEY,
            user_id            text NOT NULL,
            stripe_customer_id text,
            event_name         text,
            identifier         text NOT NULL UNIQUE,
            occurred_at        timestamptz NOT NULL,
            value              integer NOT NULL,
            state              text NOT NULL CHECK (state IN (
                                   'pending', 'sending', 'in_doubt', 'accepted', 'rejected', 'expired', 'blocked',
                                   'waived')),
            invoice_closes_at  timestamptz,
            attempts           integer NOT NULL DEFAULT 0,
            first_sent_at      timestamptz,
            known_since        timestamptz,
            last_sent_at       timestamptz,
            absent_since       timestamptz,
            accepted_at        timestamptz,
            verified_at        timestamptz,
            late               boolean NOT NULL DEFAULT false,
            error_code         text,
            error_message      text,
            tried_by           bigint,
            looked_by          bigint,
            -- What travels has a customer, and a time by which it should be there.
            CHECK (
                state IN ('blocked', 'rejected', 'waived')
                OR (stripe_customer_id IS NOT NULL AND invoice_closes_at IS NOT NULL))
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE maintenance.meter_sends IS "
        "'Every usage event on its way to Stripe. What was sent once is sent again only as it stands here.'"
    )
    # known_since is the earliest moment at which Stripe may have got the identifier, from us or from the service.
    # tried_by and looked_by are the runs that last tried to send a row, and last looked for it at Stripe.
    op.execute(
        """
        CREATE INDEX meter_sends_open ON maintenance.meter_sends (stripe_customer_id, occurred_at)
        WHERE state IN ('pending', 'sending', 'in_doubt')
        """
    )
    op.execute(
        """
        CREATE INDEX meter_sends_accepted ON maintenance.meter_sends (stripe_customer_id, occurred_at)
        WHERE state = 'accepted'
        """
    )
    op.execute(
        """
        CREATE INDEX meter_sends_unverified ON maintenance.meter_sends (accepted_at)
        WHERE state = 'accepted' AND verified_at IS NULL
        """
    )
    op.execute("CREATE INDEX meter_sends_undecided ON maintenance.meter_sends (state) WHERE state <> 'accepted'")
    op.execute(
        """
        CREATE TABLE maintenance.drift (
            id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            stripe_customer_id text NOT NULL,
            period_start       timestamptz NOT NULL,
            period_end         timestamptz NOT NULL,
            usage_event_id     uuid,
            ours               bigint NOT NULL,
            theirs             bigint NOT NULL,
            reason             text NOT NULL,
            seen_at            timestamptz NOT NULL,
            resolved_at        timestamptz
        )
        """
    )
    op.execute(
        "COMMENT ON TABLE maintenance.drift IS 'Where our pages and Stripe''s differ. Never corrected by itself.'"
    )
    op.execute(
        """
        CREATE UNIQUE INDEX drift_open ON maintenance.drift
            (stripe_customer_id, period_start, coalesce(CAST(usage_event_id AS text), ''))
        WHERE resolved_at IS NULL
        """
    )
    op.execute("CREATE TABLE maintenance.cursors (name text PRIMARY KEY, value text NOT NULL)")
    op.execute("COMMENT ON TABLE maintenance.cursors IS 'Where a feed or a sweep goes on.'")
