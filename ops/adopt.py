"""Binding a database to another environment: what a restored copy needs before anything may run on it.

Dangers: a copy of production that bills or deletes as production does. So both are shown, nothing is bound without a
yes and a reason, and it is on record in the database itself.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from shared.postgres import Row, Transaction
from shared.settings import Settings
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("adopt.sql"))
FIELDS = ("instance", "database", "bucket", "livemode")


def bound(transaction: Transaction, *, hold: bool = False) -> Row | None:
    """What the database is bound to, None for nothing yet; with `hold`, nobody binds it before the transaction ends."""
    return transaction.row(_STATEMENTS["bound_held" if hold else "bound"])


def wanted(settings: Settings) -> Mapping[str, object]:
    """What the settings of this environment say."""
    return {
        "instance": settings.database.instance,
        "database": settings.database.database,
        "bucket": settings.cleanup.bucket,
        "livemode": settings.stripe.livemode,
    }


def adopt(transaction: Transaction, values: Mapping[str, object], now: datetime) -> None:
    """Bind the database anew. What the settings do not say is bound to nothing."""
    transaction.execute(_STATEMENTS["adopt"], **values, now=now)
