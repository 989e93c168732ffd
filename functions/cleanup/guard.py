"""The guard against deleting too much: a wrong database, a wrong clock or a wrong setting must not empty a table.

Pure arithmetic; each job counts first, asks here, and only then deletes.
"""

from shared.errors import Refused

# A share is written with nine digits at most (shared/environ.py); in whole billionths, arithmetic with it is exact.
_BILLION = 10**9


def allowed(total: int, fraction: float, floor: int, by_operator: int | None) -> int:
    """How many of `total` one run may delete: a share of them or a floor, unless an operator named a number."""
    if by_operator is not None:
        return by_operator
    return max(floor, total * round(fraction * _BILLION) // _BILLION)


def would_refuse(may: int) -> str:
    """What a dry run adds to its sentence where a run would be refused."""
    return f"; a run would refuse that, because at most {may} may go in one"


def check(job: str, what: str, would_delete: int, total: int, may: int) -> None:
    """Let a run begin that would delete no more than it may. Raises Refused with both numbers otherwise.

    `job` is the short name of the job; `what` names the things in the plural, with where they are, such as "runs".
    """
    if would_delete > may:
        raise Refused(
            f"Refused: {would_delete} of {total} {what} would be deleted, and at most {may} may go in one run. Nothing "
            "was deleted. Check that the database, the bucket, the clock and the retention settings are the right "
            f"ones; if so, run `python -m ops run {job} --allow-deletes N --reason WHY` with a large enough N.",
            would_delete,
            may,
        )
