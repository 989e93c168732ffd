"""What a request asks for: read from its headers and body, and nothing guessed.

A firing of Cloud Scheduler carries X-CloudScheduler-ScheduleTime, RFC 3339, the same for every retry of that firing
("Cloud Scheduler, HTTP target", headers). It names the slot. A forced run may carry the next firing's time, or none.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from shared.clock import parse_rfc3339
from shared.errors import BadRequest

SCHEDULE_TIME_HEADER = "X-CloudScheduler-ScheduleTime"
# A delivery of Cloud Tasks carries it ("Task request headers", Cloud Tasks documentation). It tells what the body is
# and proves nothing: who may call is Cloud Run's to know, from the token.
TASK_NAME_HEADER = "X-CloudTasks-TaskName"
# A step follows another only where time ran out, after nearly half an hour: so many are close to a day, and the next
# daily firing comes then.
LARGEST_STEP = 48
# Clocks differ by minutes at most; a slot further ahead than this is the next firing's, carried by a forced run.
_SLOT_AHEAD = timedelta(seconds=300)
# The steps of a firing take a day, and some wait in between.
_OLDEST_STEP = timedelta(hours=36)
_FIELDS = ("dry_run", "force", "limit", "as_of")
_TASK_FIELDS = ("slot", "step", "shard")
_LONGEST_NAME = 64
# Outside these years arithmetic with months and days would leave the calendar.
_YEARS = range(1970, 9999)


@dataclass(frozen=True)
class Invocation:
    """One request to run a job. `slot` is the firing it answers, None where it answers none.

    `step` counts a firing's continuations, `shard` is the part that it is about, 0 for the firing itself.
    `host` is what the request was sent to, None where it came otherwise.
    """

    trigger: str = "manual"
    slot: datetime | None = None
    dry_run: bool = False
    force: bool = False
    limit: int | None = None
    as_of: datetime | None = None
    # Only the operator's command line sets it: no request can lift the guard against deleting too much.
    allow_deletes: int | None = None
    step: int = 0
    shard: int = 0
    host: str | None = None


def parse_task(body: bytes, now: datetime, shards: int = 1) -> Invocation:
    """Read a delivery of Cloud Tasks: a step of a firing, or of one of its shards.

    Raises BadRequest, naming the field.
    """
    fields = _object(body)
    for name in _TASK_FIELDS:
        if name not in fields:
            raise BadRequest(name, f"A task's body must have the fields {', '.join(_TASK_FIELDS)}; {name} is missing.")
    _check_names(fields, _TASK_FIELDS)
    try:
        slot = _time(fields["slot"] if isinstance(fields["slot"], str) else "")
    except ValueError:
        raise BadRequest("slot", "slot must be an RFC 3339 time, such as 2026-01-01T00:30:00Z.") from None
    if slot > now + _SLOT_AHEAD:
        raise BadRequest("slot", "slot must not be in the future.")
    if slot < now - _OLDEST_STEP:
        hours = _OLDEST_STEP // timedelta(hours=1)
        raise BadRequest("slot", f"slot must not be older than {hours} hours: a firing takes no more steps by then.")
    step, shard = fields["step"], fields["shard"]
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= LARGEST_STEP:
        raise BadRequest("step", f"step must be a whole number from 1 to {LARGEST_STEP}.")
    most = 0 if shards == 1 else shards
    if not isinstance(shard, int) or isinstance(shard, bool) or not 0 <= shard <= most:
        raise BadRequest("shard", f"shard must be a whole number from 0 to {most}." if most else "shard must be 0.")
    return Invocation("task", slot, step=step, shard=shard)


def parse_invocation(schedule_time: str | None, body: bytes, now: datetime) -> Invocation:
    """Read a request: its ScheduleTime header, if it has one, and its body.

    Raises BadRequest, naming the field, for anything that the contract does not know.
    """
    invocation = _from_body(body)
    slot = _slot(schedule_time)
    if slot is None or slot > now + _SLOT_AHEAD:
        return invocation
    scheduled = replace(invocation, trigger="schedule")
    if invocation.dry_run or invocation.force or invocation.limit is not None:
        return scheduled
    return replace(scheduled, slot=slot)


def _slot(header: str | None) -> datetime | None:
    if header is None:
        return None
    try:
        return _time(header.strip())
    except ValueError:
        raise BadRequest(
            SCHEDULE_TIME_HEADER,
            f"The header {SCHEDULE_TIME_HEADER} must be an RFC 3339 time, such as 2026-01-01T00:30:00Z.",
        ) from None


def _from_body(body: bytes) -> Invocation:
    if not body.strip():
        return Invocation()
    fields = _object(body)
    _check_names(fields, _FIELDS)
    for name in ("dry_run", "force"):
        if not isinstance(fields.get(name, False), bool):
            raise BadRequest(name, f"{name} must be true or false.")
    limit = fields.get("limit")
    if "limit" in fields and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise BadRequest("limit", "limit must be a whole number of 1 or more.")
    dry_run = fields.get("dry_run") is True
    return Invocation(
        dry_run=dry_run,
        force=fields.get("force") is True,
        limit=limit if isinstance(limit, int) else None,
        as_of=_as_of(fields["as_of"], dry_run) if "as_of" in fields else None,
    )


def _check_names(fields: Mapping[str, object], known: Sequence[str]) -> None:
    for name in fields:
        if name not in known:
            shown = name[:_LONGEST_NAME]
            raise BadRequest(shown, f"The body has the unknown field {shown!r}; known: {', '.join(known)}.")


def _object(body: bytes) -> dict[str, object]:
    def once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadRequest("body", "The body names a field twice.")
        return found

    try:
        value = json.loads(body, object_pairs_hook=once_each)
    except (ValueError, RecursionError):
        raise BadRequest("body", "The body must be empty or a JSON object; this is no JSON.") from None
    if not isinstance(value, dict):
        raise BadRequest("body", "The body must be empty or a JSON object; this is another kind of value.")
    return value


def _as_of(value: object, dry_run: bool) -> datetime:
    if not dry_run:
        raise BadRequest("as_of", "as_of goes only with dry_run: true.")
    try:
        return _time(value if isinstance(value, str) else "")
    except ValueError:
        raise BadRequest("as_of", "as_of must be an RFC 3339 time, such as 2026-01-01T00:30:00Z.") from None


def _time(text: str) -> datetime:
    moment = parse_rfc3339(text)
    if moment.year not in _YEARS:
        raise ValueError("outside the years that can be reckoned with")
    return moment
