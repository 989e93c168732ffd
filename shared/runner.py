"""One invocation from its request to its outcome, whatever happens on the way.

The guards stand here in their order, each for one thing: the ledger against repeats, the lock against overlap, the
fence against a lock that was lost. The fourth, the predicates in each job's SQL, is what keeps the data right.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial

from shared.clock import format_rfc3339
from shared.context import Context
from shared.continuation import Left, continued, is_divided
from shared.coordination import Coordination
from shared.errors import Fenced, MaintenanceError
from shared.failures import outcome_of
from shared.invocation import Invocation
from shared.job import FAILED_COUNT, Job, JobResult
from shared.ledger import OF_SHARDS, Begun, Ended, Ledger, NewRun, full_success, slot_state
from shared.locks import Busy
from shared.outcome import Outcome, Status
from shared.postgres import Transaction
from shared.services import Services
from shared.shards import Part, Share
from shared.start_check import Pause, check_start
from shared.statements import STATEMENTS

# A run stops so long before its timeout: time to finish a batch, close the run and answer.
_STOP_BEFORE_SECONDS = 60
_BEGUN_BY = {
    "schedule": "fired by Cloud Scheduler",
    "manual": "asked for over HTTP",
    "cli": "begun on an operator's command line",
    "task": "continued by Cloud Tasks",
}
_SEVERITY = {
    Status.INCOMPLETE: "WARNING",
    Status.FENCED: "WARNING",
    Status.REFUSED: "ERROR",
    Status.UNAVAILABLE: "WARNING",
    Status.MISCONFIGURED: "ERROR",
    Status.FAILED: "ERROR",
}


def run_job(services: Services, job: Job, invocation: Invocation) -> Outcome:
    """Run a job once, as asked, and log what came of it. Raises nothing: every error has its outcome."""
    execution = _Execution(services, job, invocation)
    try:
        outcome = execution.run()
    except Exception as error:  # noqa: BLE001  the boundary: whatever it is, it becomes an answer and a log line
        outcome = outcome_of(services, job.name, error)
    outcome = continued(services, job, invocation, execution.described(outcome), execution.left)
    fields = outcome.as_json()
    severity = _SEVERITY.get(outcome.status, "INFO" if outcome.success or outcome.status is Status.BUSY else "ERROR")
    if execution.left is Left.SHARDS and "handed_to" in fields:
        severity = "INFO"
    if invocation.shard:
        fields["shard"] = invocation.shard
    if execution.began:
        # The other figures are the firing's, with what its earlier attempts and its shards did.
        fields["own"] = dict(execution.own_counts)
    event = "finish" if execution.began else "answer"
    services.log.write(severity, str(fields.pop("message")), event=event, trigger=invocation.trigger, **fields)
    return outcome


class _Execution:
    """The state of one invocation on its way through the guards."""

    def __init__(self, services: Services, job: Job, invocation: Invocation) -> None:
        self._services = services
        self._job = job
        self._invocation = invocation
        self._coordination = Coordination(services, job)
        self._started = services.clock.now()
        self._dry_run = invocation.dry_run
        self._slot = invocation.slot
        self._share = Share(of=job.shards)
        self.began = False
        self.left = Left.NOTHING
        self.own_counts: Mapping[str, int] = {}

    def run(self) -> Outcome:
        """Pass the guards, run the job, close the run. Raises MaintenanceError where no run was begun."""
        settings = self._services.settings
        if settings.report_only:
            self._dry_run, self._slot = True, None
        if self._invocation.shard:
            self._share = Share(Part.SHARD, self._invocation.shard, self._job.shards)
        replay = self._coordination.stored_result(self._slot, self._share.number) if self._slot else None
        if replay is not None:
            return replay
        ledger = Ledger(self._services.database)
        with self._services.database.transaction(read_only=True) as transaction:
            state = check_start(transaction, self._job, settings, self._started)
            replay = self._look_at_slot(transaction)
        # A dry run that was asked for is a look: who paused the job may want to know what it would do.
        if state.pause is not None and not self._invocation.dry_run:
            return self._paused(ledger, state.pause)
        if self._dry_run:
            return self._without_guards(ledger)
        if replay is not None:
            return replay
        lease = self._coordination.lease(self._share)
        if isinstance(lease, Busy):
            return self._busy(lease)
        with lease:
            begun = ledger.begin(self._new_run())
            return begun if isinstance(begun, Outcome) else self._under_fence(ledger, begun)

    def _look_at_slot(self, transaction: Transaction) -> Outcome | None:
        """Give the slot's stored result, if any; and find out which part of its work this run is."""
        if self._slot is None:
            return None
        state = slot_state(transaction, self._job, self._share, self._slot)
        if is_divided(self._services.settings, self._job, self._invocation):
            part = Part.CLOSING if state.shards_completed else Part.OPENING
            self._share = Share(part, of=self._job.shards)
        return state.replay

    def _busy(self, why: Busy) -> Outcome:
        """Say who holds the lock, or the places: what is on record as running. One that is just beginning is not."""
        of = self._job.name if why is Busy.JOB else None
        with self._services.database.transaction(read_only=True) as transaction:
            # In a shard's way may be another run of it, or one of everything.
            rows = transaction.rows(STATEMENTS["running"], job=of, shards=sorted({0, *self._share.excludes}))
        others = "; ".join(
            f"run {row['id']} of {row['job']}, {_BEGUN_BY[row['trigger']]} at {row['started_at']:%H:%M:%S} UTC"
            for row in rows[: 1 if of else None]
        )
        message = f"{self._job.name} was not started: {why.value}{f' ({others})' if others else ''}."
        return Outcome(Status.BUSY, False, message, self._job.name)

    @property
    def _by_mode(self) -> bool:
        """Whether it is a dry run only because report mode is in force."""
        return self._dry_run and not self._invocation.dry_run

    def described(self, outcome: Outcome) -> Outcome:
        """The outcome with what is common to all: slot, mode, duration, and what it had to do without."""
        elapsed = self._services.clock.now() - self._started
        details = dict(outcome.details)
        if self._by_mode:
            details["mode"] = "report"
        if self._coordination.degraded:
            details["degraded"] = ["redis"]
        return replace(
            outcome,
            slot=self._slot,
            dry_run=self._dry_run,
            duration_ms=max(0, elapsed // timedelta(milliseconds=1)),
            message=self._services.redact(outcome.message),
            details=details,
        )

    def _under_fence(self, ledger: Ledger, begun: Begun) -> Outcome:
        context = self._context(begun)
        self._log_start(context, begun.fence.run_id)
        error: Exception | None = None
        gauges: Mapping[str, int] = {}
        try:
            result = self._work(context)
        except Exception as raised:  # noqa: BLE001  whatever it is, the run must be closed with it
            error = raised
            outcome = outcome_of(self._services, self._job.name, raised)
        else:
            gauges = result.gauges
            outcome = self._ended_well(context, result)
        gauges = {**gauges, FAILED_COUNT: context.failed_count}
        outcome = replace(outcome, run_id=begun.fence.run_id, counts={**self._totals(context), **gauges})
        self.own_counts = self._own(context)
        try:
            recorded = ledger.finish(begun.fence, self._record_of(outcome, {**context.counts, **gauges}, error))
        except MaintenanceError as unrecorded:
            # What is not on record is not over. Being fenced explains everything else; otherwise the first error does.
            if error is None or isinstance(unrecorded, Fenced):
                late = outcome_of(self._services, self._job.name, unrecorded)
                outcome = replace(late, run_id=outcome.run_id, counts=outcome.counts)
            return outcome
        context.counts = Counter({name: recorded[name] for name in recorded if name not in gauges})
        outcome = replace(outcome, counts={**self._totals(context), **gauges})
        self.own_counts = self._own(context)
        if outcome.status is Status.COMPLETED and self._slot is not None:
            self._coordination.store_result(self._slot, self._share.number, outcome)
        return outcome

    def _work(self, context: Context) -> JobResult:
        """Let the job do this run's part; note what is left to do then."""
        match self._share.part:
            case Part.OPENING:
                result = self._job.load_sharded().open_slot(context)
                if result.complete:
                    self.left = Left.SHARDS
                    return replace(result, complete=False)
            case Part.SHARD:
                result = self._job.load_sharded().run_shard(context)
            case Part.CLOSING:
                result = self._job.load_sharded().close_slot(context)
            case Part.WHOLE:
                result = self._job.load().run(context)
        if not result.complete and context.time_left() <= 0:
            self.left = Left.TIME_RAN_OUT
        return result

    def _without_guards(self, ledger: Ledger) -> Outcome:
        """A dry run: it takes neither slot nor lock nor fence, and is recorded when it is over."""
        context = self._context(None)
        self._log_start(context, None)
        result = self._look(context)
        counts = {**self._totals(context), **result.gauges, FAILED_COUNT: context.failed_count}
        self.own_counts = self._own(context)
        outcome = replace(self._ended_well(context, result), counts=counts)
        return replace(outcome, run_id=ledger.record(self._new_run(), self._record_of(outcome, counts, None)))

    def _look(self, context: Context) -> JobResult:
        """What the job would do; a shard, whose firing began before report mode was in force, does not even look."""
        if self._share.part is Part.SHARD:
            return JobResult(f"Report mode is in force: {self._job.name}, {self._share}, was left out")
        return self._job.load().run(context)

    def _paused(self, ledger: Ledger, pause: Pause) -> Outcome:
        until = format_rfc3339(pause.until)
        message = f"{self._job.name} is paused until {until} by {pause.by}: {pause.why}"
        details = {"paused_until": until, "paused_by": pause.by, "paused_why": pause.why}
        outcome = Outcome(Status.PAUSED, True, message, self._job.name, details=details)
        return replace(outcome, run_id=ledger.record(self._new_run(), self._record_of(outcome, {}, None)))

    def _ended_well(self, context: Context, result: JobResult) -> Outcome:
        status = Status.COMPLETED if result.complete else Status.INCOMPLETE
        totals = {**self._totals(context), FAILED_COUNT: context.failed_count}
        success = result.complete and full_success(self._job, totals)
        return Outcome(status, success, result.message, self._job.name)

    def _totals(self, context: Context) -> dict[str, int]:
        """The counts over all attempts of the slot, every declared one named."""
        return {name: context.total(name) for name in (*self._job.counts, *context.counts)}

    def _own(self, context: Context) -> Mapping[str, int]:
        """The counts of this run alone."""
        return {name: context.counts[name] for name in self._job.counts}

    def _record_of(self, outcome: Outcome, counts: dict[str, int], error: Exception | None) -> Ended:
        error_id = outcome.details.get("error_id")
        if outcome.status is Status.COMPLETED and not outcome.success:
            # On record, so that the health check does not take it for a success.
            counts = {**counts, "all_failed": 1}
        if self._by_mode:
            # So that it is told from a dry run that was asked for, when the mode is another.
            counts = {**counts, "report_mode": 1}
        return Ended(
            outcome.status,
            self._services.redact(outcome.message),
            counts,
            self._services.clock.now(),
            error_type=type(error).__name__ if error else None,
            error_id=str(error_id) if error_id else None,
        )

    def _context(self, begun: Begun | None) -> Context:
        return Context(
            job=self._job,
            now=self._invocation.as_of or self._started,
            slot=self._slot,
            dry_run=self._dry_run,
            limit=self._invocation.limit,
            allow_deletes=self._invocation.allow_deletes,
            settings=self._services.settings,
            deadline_at=self._new_run().deadline_at,
            database=self._services.database,
            clock=self._services.clock,
            log=self._services.log,
            timer=self._services.timer,
            connect_stripe=lambda: self._services.stripe,
            connect_bucket=lambda: self._services.bucket,
            fence=begun.fence if begun else None,
            earlier=begun.earlier if begun else {},
            stopping=self._services.stopping,
            counts=Counter(self._on_record()),
            failed_count=begun.failed if begun and self._share.part is Part.CLOSING else 0,
            share=self._share,
            left=begun.left if begun else {},
            shared_pace=partial(self._coordination.pace, self._share) if self._share.part is Part.SHARD else None,
        )

    def _on_record(self) -> dict[str, int]:
        """What stands with the counts from the first moment, however the run ends."""
        counts = {}
        if self._invocation.limit is not None:
            # A limited run is no full success.
            counts["limit"] = self._invocation.limit
        if self._share.part is Part.SHARD:
            counts[OF_SHARDS] = self._share.of
        return counts

    def _new_run(self) -> NewRun:
        settings = self._services.settings
        seconds = (settings.job_timeout_seconds or self._job.timeout_seconds) - _STOP_BEFORE_SECONDS
        return NewRun(
            job=self._job,
            share=self._share,
            counts=self._on_record(),
            slot=self._slot,
            trigger=self._invocation.trigger,
            dry_run=self._dry_run,
            step=self._invocation.step,
            started_at=self._started,
            deadline_at=self._started + timedelta(seconds=seconds),
            revision=settings.revision,
        )

    def _log_start(self, context: Context, run_id: int | None) -> None:
        self.began = True
        self._services.log.write(
            "INFO",
            f"{self._job.name} started",
            event="start",
            job=self._job.name,
            run_id=run_id,
            slot=self._slot,
            trigger=self._invocation.trigger,
            dry_run=self._dry_run,
            deadline_at=context.deadline_at,
        )
