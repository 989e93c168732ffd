"""What an error means for the one who asked, and what of it goes to the log alone."""

import uuid

from shared.errors import Fenced, LockLost, Misconfigured, Refused, Unavailable
from shared.outcome import Outcome, Status
from shared.services import Services


def outcome_of(services: Services, job: str, error: Exception) -> Outcome:
    """The outcome that an error stands for.

    One that nobody foresaw is logged, with an id, and only the id is answered: its text may hold anything.
    """
    if isinstance(error, Fenced):
        return Outcome(Status.FENCED, False, str(error), job)
    if isinstance(error, Refused):
        details = {"would_delete": error.would_delete, "allowed": error.allowed}
        return Outcome(Status.REFUSED, False, str(error), job, details=details)
    if isinstance(error, Unavailable):
        return Outcome(Status.UNAVAILABLE, False, str(error), job, details={"service": error.service})
    if isinstance(error, LockLost):
        message = f"PostgreSQL did not get to it in time: {error}. Try again."
        return Outcome(Status.UNAVAILABLE, False, message, job, details={"service": "postgres"})
    if isinstance(error, Misconfigured):
        return Outcome(Status.MISCONFIGURED, False, str(error), job, details={"setting": error.setting})
    error_id = uuid.uuid4().hex
    services.log.write(
        "ERROR",
        f"{job}: unforeseen {type(error).__name__}: {error}",
        event="error",
        job=job,
        error_id=error_id,
        error_type=type(error).__name__,
        where=_where(error),
    )
    message = f"{job} failed for a reason that nobody foresaw. The log has the details under error id {error_id}."
    return Outcome(Status.FAILED, False, message, job, details={"error_id": error_id})


def _where(error: Exception) -> str:
    """File, line and function of the innermost frame of ours: where to begin to look, and no stack trace."""
    where = "unknown"
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "site-packages" not in code.co_filename:
            where = f"{'/'.join(code.co_filename.split('/')[-3:])}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    return where
