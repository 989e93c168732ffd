"""What the month's runs and people left in our other tables: sends, drift, erasures, objects, holds, actions."""

from __future__ import annotations

import hashlib
import random
import string
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from devstack.history_story import OPERATORS, PAUSED_FOR_STRIPE, Story
from functions.cleanup.erasing import hash_of
from shared.clock import format_rfc3339

Rows = list[dict[str, object]]
_Arguments = Mapping[str, object]

_DAY, _HOUR, _MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
_USERS = 40
_ACCEPTED = 400
_SOFT_DELETE = 7 * _DAY
_SENDER, _LAWYER = OPERATORS
_ACCOUNT_GONE = "No such customer"
# State, how many, how long ago at least and at most, what was said.
_UNDECIDED: Sequence[tuple[str, int, timedelta, timedelta, str | None, str | None]] = (
    ("pending", 4, 20 * _MINUTE, 90 * _MINUTE, None, None),
    ("sending", 2, 10 * _MINUTE, 30 * _MINUTE, None, None),
    ("in_doubt", 3, 3 * _HOUR, 20 * _HOUR, None, "Stripe did not answer (read timed out)"),
    ("blocked", 2, 2 * _DAY, 9 * _DAY, "no_customer", None),
    ("blocked", 1, 2 * _DAY, 9 * _DAY, "no_account", None),
    ("blocked", 2, 4 * _DAY, 12 * _DAY, "was_paid", None),
    ("rejected", 5, 3 * _DAY, 20 * _DAY, "resource_missing", _ACCOUNT_GONE),
    ("rejected", 2, 5 * _DAY, 12 * _DAY, "invalid_value", "The value must be a whole number that is not negative"),
    ("expired", 4, 36 * _DAY, 40 * _DAY, "timestamp_too_far_in_past", "The timestamp is more than 35 days in the past"),
    ("waived", 3, 20 * _DAY, 28 * _DAY, "no_customer", None),
)


class Things:
    """Makes the rows, from the runs that there are (with their ids), in the order in which they are asked for."""

    def __init__(
        self,
        rng: random.Random,
        now: datetime,
        days: int,
        bucket: str,
        erasure_key: bytes,
        runs: Sequence[Mapping[str, object]],
    ) -> None:
        self._rng = rng
        self._now = now
        self._story = Story(now, days)
        self._bucket = bucket
        self._key = erasure_key
        self._runs = runs
        self._users = [self._word(28) for _ in range(_USERS)]
        self._customers = {user: f"cus_{self._word(14)}" for user in self._users}
        self._sends: Rows = []

    def sends(self) -> Rows:
        """maintenance.meter_sends: most are accepted, a few stand in each other state."""
        for _ in range(_ACCEPTED):
            occurred = self._between(26 * _HOUR, (self._now - self._story.enforced_at) - _HOUR)
            accepted = occurred + self._rng.uniform(20, 130) * _MINUTE
            verified = accepted + self._rng.uniform(2, 5) * _HOUR
            self._send(
                "accepted",
                occurred,
                accepted_at=accepted,
                verified_at=verified if verified < self._now else None,
                late=self._rng.random() < 0.02,
            )
        for state, number, latest, earliest, code, said in _UNDECIDED:
            for _ in range(number):
                message = f"{said}: {self._customers[self._users[0]]}" if said == _ACCOUNT_GONE else said
                self._send(state, self._between(latest, earliest), error_code=code, error_message=message)
        return self._sends

    def _send(self, state: str, occurred: datetime, **columns: object) -> None:
        event, user = self._uuid(), self._rng.choice(self._users)
        was_sent = state not in ("pending", "blocked")
        sent = occurred + self._rng.uniform(15, 110) * _MINUTE if was_sent else None
        nobody = columns.get("error_code") in ("no_customer", "no_account")
        row: dict[str, object] = {
            "usage_event_id": event,
            "user_id": user,
            "stripe_customer_id": None if nobody else self._customers[user],
            "event_name": "pages_processed" if was_sent else None,
            "identifier": event,
            "occurred_at": occurred,
            "value": self._rng.randrange(1, 40),
            "state": state,
            "invoice_closes_at": None if nobody else occurred + self._rng.uniform(2, 29) * _DAY,
            "attempts": self._rng.randrange(1, 4) if was_sent else 0,
            "first_sent_at": sent,
            "known_since": sent,
            "last_sent_at": sent,
            "absent_since": None,
            "accepted_at": None,
            "verified_at": None,
            "late": False,
            "error_code": None,
            "error_message": None,
            "tried_by": self._run_id("stripe_reconcile", sent) if sent else None,
            "looked_by": None,
        }
        self._sends.append({**row, **columns})

    def drift(self) -> Rows:
        """maintenance.drift: three open, of which one is about a single event, and five resolved."""
        accepted = [send for send in self._sends if send["state"] == "accepted"]
        rows: Rows = []
        for number in range(8):
            send = accepted[number * 7]
            seen = self._between((1 + 3 * number) * _DAY, (3 + 3 * number) * _DAY)
            start = (seen - self._rng.uniform(4, 20) * _DAY).replace(minute=0, second=0, microsecond=0)
            ours = self._rng.randrange(120, 900)
            rows.append(
                {
                    "stripe_customer_id": send["stripe_customer_id"],
                    "period_start": start,
                    "period_end": start + 30 * _DAY,
                    "usage_event_id": send["usage_event_id"] if number == 2 else None,
                    "ours": ours,
                    "theirs": ours + self._rng.choice((-19, -7, -4, 3, 12)),
                    "reason": "late" if number == 2 else "sums_differ",
                    "seen_at": seen,
                    "resolved_at": seen + self._rng.uniform(2, 20) * _HOUR if number >= 3 else None,
                }
            )
        return rows

    def erasures(self) -> Rows:
        """maintenance.erasures: one for each run that the runs on record say they erased."""
        rows: Rows = []
        for run in self._runs:
            counts = run["counts"]
            if run["job"] not in ("abandoned_cleanup", "opt_out_cleanup", "erasure_on_request") or run["dry_run"]:
                continue
            for _ in range(counts.get("jobs_cleaned", 0) if isinstance(counts, dict) else 0):
                rows.append(self._erasure(run))
        # Of the last ones some objects are open still.
        for row in rows[-4:]:
            row.update(completed_at=None, copies=None, copies_until=None, objects=0, bytes=0)
        return rows

    def _erasure(self, run: Mapping[str, object]) -> dict[str, object]:
        is_whole = run["job"] != "opt_out_cleanup"
        user = self._users[11] if run["job"] == "erasure_on_request" else self._rng.choice(self._users)
        files, tasks = self._rng.randrange(0, 5), self._rng.randrange(0, 3)
        started = run["started_at"]
        assert isinstance(started, datetime)  # noqa: S101  as this package has made it
        at = started + self._rng.uniform(1, 3) * timedelta(seconds=1)
        done = at if not files else at + self._rng.uniform(2, 60) * timedelta(seconds=1)
        return {
            "job": run["job"],
            "run_id": run["id"],
            "job_run_id": self._uuid(),
            "user_hash": f"\\x{hash_of(self._key, user)}",
            "extent": "run" if is_whole else "content",
            "row_counts": {
                "job_runs": int(is_whole),
                "source_files": files,
                "extraction_tasks": tasks,
                "extraction_results": tasks * 3,
                "source_files_to_tasks": tasks * files,
                "job_fields": self._rng.randrange(2, 9) if is_whole else 0,
                "job_exports": int(is_whole and self._rng.random() < 0.2),
                "automation_runs": 0,
            },
            "objects": files,
            "bytes": files * self._rng.randrange(90_000, 4_000_000),
            "erased_at": at,
            "completed_at": done,
            "copies": "soft_delete" if files else "none",
            "copies_until": done + _SOFT_DELETE if files else None,
        }

    def objects(self, erasures: Rows, numbers: Sequence[int]) -> Rows:
        """maintenance.object_deletions: those of the erasures, under their names' hashes, and what is open."""
        rows: Rows = []
        for erasure, number in zip(erasures, numbers, strict=True):
            objects, size = erasure["objects"], erasure["bytes"]
            assert isinstance(objects, int) and isinstance(size, int)  # noqa: S101, PT018  as made above
            for _ in range(objects):
                rows.append(self._object("source", erasure["erased_at"], "deleted", size // objects, erasure, number))
        for erasure, number in list(zip(erasures, numbers, strict=True))[-4:]:
            rows.append(self._object("source", erasure["erased_at"], "pending", 812_004, erasure, number))
        refused = "the bucket refused: 403 retentionPolicyNotMet"
        for kind, state, days, said in (
            ("zip", "failed", 6.1, refused),
            ("zip", "failed", 4.2, refused),
            ("orphan", "held", 9.0, "held by an operator"),
            ("conversion", "pending", 0.4, "503 backendError"),
            ("temp_upload", "pending", 0.3, "503 backendError"),
        ):
            rows.append(self._object(kind, self._now - days * _DAY, state, 2_400_000, error=said))
        for _ in range(60):
            state = self._rng.choice(("deleted", "deleted", "deleted", "absent", "superseded"))
            rows.append(self._object("zip", self._between(_DAY, 14 * _DAY), state, 19_500_000))
        return rows

    def _object(
        self,
        kind: str,
        requested: object,
        state: str,
        size: int,
        erasure: Mapping[str, object] | None = None,
        number: int | None = None,
        error: str | None = None,
    ) -> dict[str, object]:
        assert isinstance(requested, datetime)  # noqa: S101  as this package has made it
        file, run = self._uuid(), erasure["job_run_id"] if erasure else self._uuid()
        name = f"jobs/{run}/sources/{file}.pdf" if kind in ("source", "conversion") else f"imports/{file}.zip"
        is_done = state in ("deleted", "absent", "superseded")
        done = requested + self._rng.uniform(1, 50) * timedelta(seconds=1) if is_done else None
        by_erasure = int(str(erasure["run_id"])) if erasure else None
        return {
            "bucket": self._bucket,
            "object_name": hashlib.sha256(name.encode()).hexdigest() if is_done else name,
            "generation": None if kind == "source" else requested.toordinal() * 1_000_000 + self._rng.randrange(10**6),
            "kind": kind,
            "source_file_id": file,
            "job_run_id": run,
            "erasure_id": number,
            "run_id": by_erasure or self._run_id("artifact_cleanup", requested),
            "state": state,
            "attempts": 1 if is_done else self._rng.randrange(2, 9),
            "claimed_until": None,
            "next_attempt_at": requested if is_done else self._now + self._rng.uniform(3, 58) * _MINUTE,
            "bytes": None if state == "absent" else size,
            "requested_at": requested,
            "done_at": done,
            "error": error,
        }

    def holds(self) -> Rows:
        """maintenance.holds: two in force, two that are over."""

        def hold(scope: str, subject: str, reason: str, until: datetime | None, ago: timedelta) -> dict[str, object]:
            about = {"scope": scope, "subject": subject, "reason": reason}
            return {**about, "until": until, "by": _LAWYER, "created_at": self._now - ago}

        return [
            hold("job", self._uuid(), "asked for by support, ticket 881", self._now - 12 * _DAY, 19 * _DAY),
            hold("user", self._users[7], "case 4480", self._now - 5 * _DAY, 15 * _DAY),
            hold("run", self._uuid(), "disputed invoice 2026-118", self._now + 40 * _DAY, 9 * _DAY),
            hold("user", self._users[3], "case 4711", None, 3 * _DAY),
        ]

    def pause(self) -> dict[str, object]:
        """The one row of maintenance.controls."""
        story = self._story
        until = {"paused_until": story.paused_until, "by": _LAWYER, "why": story.paused_why}
        return {"job": "opt_out_cleanup", **until}

    def actions(self, holds: Sequence[int]) -> Rows:
        """maintenance.operator_actions: what people did by hand, with holds of these numbers."""
        story, sends = self._story, self._sends
        events = [
            {name: send[key] for name, key in (("event", "usage_event_id"), ("state", "state"))}
            for send in sends
            if send["state"] == "waived"
        ]
        until = format_rfc3339(story.stripe_paused_until)
        stopped: _Arguments = {"job": "stripe_reconcile", "until": until}
        resumed: _Arguments = {"job": "stripe_reconcile", "was_paused_until": until}
        paused: _Arguments = {"job": "opt_out_cleanup", "until": format_rfc3339(story.paused_until)}
        allowed: _Arguments = {"job": "artifact_cleanup", "limit": None, "allow_deletes": 1_500, "force": None}
        erased: _Arguments = {"runs": 6, "user_hash": hash_of(self._key, self._users[11])}
        at_refusal = (story.refused_days - 0.41) * _DAY
        rows: list[tuple[datetime, str, str, _Arguments, str | None]] = [
            (self._now - 18 * _DAY, _SENDER, "stripe waive", {"events": events}, "trial accounts, agreed with finance"),
            (story.stripe_paused_from - 9 * _MINUTE, _SENDER, "pause", stopped, PAUSED_FOR_STRIPE),
            (story.stripe_paused_until - 2 * _MINUTE, _SENDER, "resume", resumed, None),
            (self._now - at_refusal, _SENDER, "run", allowed, None),
            (self._now - story.erased_on_request - _MINUTE, _LAWYER, "erase", erased, "request 4655 of a user"),
            (self._now - 6.4 * _DAY, _SENDER, "outbox retry-failed", {"failed_count": 2, "held_count": 1}, None),
            (self._now - 5 * _DAY, _LAWYER, "hold end", {"hold": holds[1], "scope": "user"}, "case 4480 is closed"),
            (self._now - 3 * _DAY, _LAWYER, "pause", paused, story.paused_why),
            (self._now - 3 * _DAY, _LAWYER, "hold add", {"hold": holds[3], "scope": "user"}, "case 4711"),
            (self._now - 2 * _DAY, _SENDER, "schedules run", {"schedule": "artifact-cleanup"}, None),
        ]
        names = ("at", "by", "action", "arguments", "reason")
        return [dict(zip(names, row, strict=True)) for row in sorted(rows, key=lambda row: row[0])]

    # --- what all of them are made of

    def _between(self, latest: timedelta, earliest: timedelta) -> datetime:
        """A moment at least `latest` and at most `earliest` ago."""
        return self._now - latest - self._rng.random() * (earliest - latest)

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _word(self, length: int) -> str:
        return "".join(self._rng.choices(string.ascii_letters + string.digits, k=length))

    def _run_id(self, job: str, at: datetime) -> int:
        """The last run of a job before a moment, or its first one."""
        mine = [run for run in self._runs if run["job"] == job and not run["dry_run"]]
        before = [run for run in mine if str(run["started_at"]) <= str(at)]
        return int(str((before or mine[:1])[-1]["id"]))
