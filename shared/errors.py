"""What can go wrong, as one tree. HTTP codes are not here: `shared.entry` alone knows them.

    MaintenanceError
    ├── BadRequest        a field of the request is not what it must be
    ├── Misconfigured     a setting, a permission or a schema is wrong: only a person can mend it
    ├── Unavailable       a service that the job needs does not answer: a later attempt may succeed
    ├── Refused           more would be deleted than one run may: nothing was, and a person must look
    ├── Fenced            a newer run of the same job took over: this one must not write any more
    └── StatementFailed   one statement of a batch failed, the connection is good
        ├── LockLost      another session held a row, or the statement took too long: try a smaller batch
        └── DataRejected  the database refused the values themselves: one item is at fault

Every message is written for the person who reads it: what happened, which thing, what to do next. None
carries a secret or a row's content.
"""


class MaintenanceError(Exception):
    """The root of the tree; `str()` of it is a sentence that may leave the process."""


class BadRequest(MaintenanceError):
    """A part of the request is not what the contract says. `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Misconfigured(MaintenanceError):
    """Something that only a person can mend. `setting` names the setting or thing that is wrong."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


class Unavailable(MaintenanceError):
    """A backing service does not answer. `service` names it: postgres, redis, gcs, stripe or cloud_tasks."""

    def __init__(self, service: str, message: str) -> None:
        super().__init__(message)
        self.service = service


class Refused(MaintenanceError):
    """A cleanup would delete more than one run may. `would_delete` and `allowed` are the two numbers."""

    def __init__(self, message: str, would_delete: int, allowed: int) -> None:
        super().__init__(message)
        self.would_delete = would_delete
        self.allowed = allowed


class Fenced(MaintenanceError):
    """A newer run holds the fence, so this run's writes would be late ones."""


class StatementFailed(MaintenanceError):
    """One statement failed and its transaction is rolled back. `reason` is safe to log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LockLost(StatementFailed):
    """A row lock was not to be had in time, a deadlock was broken, or the statement ran out of time."""


class DataRejected(StatementFailed):
    """The database refused the data of at least one item: a constraint, a trigger, a value out of range."""
