"""What must hold after a schedule, read from tables, from Stripe's record and from the bucket's listing.

Nothing here comes from the jobs: SQL of its own, and what the world wrote down when it was made.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator

from devstack import buckets
from tests.chaos.place import LOCK_TTL_SECONDS, Scene
from tests.chaos.playing import Record, Told
from tests.chaos.schedule import DIVISIBLE
from tests.chaos.world import month_of
from tests.stripe.model import Counted
from tests.support.wait import until

_HTTP = {
    "completed": {200},
    "replayed": {200},
    "busy": {409},
    "fenced": {409},
    "incomplete": {503},
    "unavailable": {503},
}
_OURS = "datname = current_database() AND application_name = 'bytereview-maintenance'"
_LONGEST_RESULT_MS = 24 * 3600 * 1000
_TRACE = re.compile(r"Traceback|File \\?\"")


def judge(scene: Scene, record: Record) -> list[str]:
    """All that does not hold. Ends the machines."""
    findings = list(record.findings)
    for check in (_answers, _slots, _locks, _sessions):
        findings += check(scene, record)
    unwilling = scene.close_machines()
    if unwilling:
        findings.append(f"{unwilling} machines did not end")
    for check in (_left_open, _periods, _counters, _billing, _content, _bucket, _counts, _watch, _logs):
        findings += check(scene, record)
    return findings


# ---- answers, runs and slots


def _answers(scene: Scene, record: Record) -> Iterator[str]:
    for told in record.told:
        # Who went on with it has it in the queue.
        right = {200} if told.goes_on else _HTTP.get(told.status, set())
        if told.code not in right:
            yield f"{told.job} answered {told.code}: {told.text.strip()}"
        yield from _says_too_much(scene, "an answer", told.text)
        if told.status == "fenced" and not record.may_lose_locks:
            yield f"{told.job} was fenced although nothing made it lose its lock: {told.text.strip()}"
        if told.fields.get("degraded") and not record.may_lose_locks:
            yield f"{told.job} did without Redis although nothing was wrong with it"
    completed = Counter(
        (told.job, told.slot, told.shard) for told in record.told if told.status == "completed" and told.slot
    )
    for (job, slot, shard), number in completed.items():
        if number > 1:
            yield f"shard {shard} of {job} of {slot} said {number} times that it had completed"


def _slots(scene: Scene, record: Record) -> Iterator[str]:
    rows = scene.database.rows("SELECT id, job, slot, shard, status FROM maintenance.runs ORDER BY id")
    completed = Counter(
        (row["job"], row["slot"], row["shard"]) for row in rows if row["status"] == "completed" and row["slot"]
    )
    shards, is_cut = range(1, scene.schedule.shards + 1), scene.schedule.shards > 1
    wanted = {
        (job, slot, shard)
        for job, slot in record.slots
        for shard in (0, *(shards if is_cut and job in DIVISIBLE else ()))
    }
    for job, slot, shard in sorted(wanted | completed.keys()):
        number = completed[job, slot, shard]
        if number > 1 or (number == 0 and (job, slot, shard) in wanted):
            yield f"shard {shard} of {job} of {slot} has {number} completed runs"
    for row in rows:
        if row["status"] in ("running", "failed", "misconfigured", "refused"):
            yield f"run {row['id']} of {row['job']} ended as {row['status']}"
        if row["status"] in ("lost", "fenced") and not record.may_lose_locks:
            yield f"run {row['id']} of {row['job']} is {row['status']} although nothing made it lose its lock"
    for first, second in record.replays:
        yield from _replay_is_true(scene, first)
        if _without_time(first) != _without_time(second):
            yield f"Redis and the ledger tell two stories of one firing: {first.text.strip()} {second.text.strip()}"


def _replay_is_true(scene: Scene, told: Told) -> Iterator[str]:
    """A replayed firing's counts are the sums of what its attempts have on record."""
    if told.status != "replayed":
        yield f"a completed firing of {told.job} was answered as {told.status}"
    attempts = scene.database.rows(
        "SELECT status, counts FROM maintenance.runs WHERE job = :job AND slot = :slot", job=told.job, slot=told.slot
    )
    sums: Counter[str] = Counter()
    for attempt in attempts:
        sums.update(attempt["counts"])
    for name in _SUMMED[told.job]:
        if told.fields.get(name) != sums[name]:
            yield f"{told.job} of {told.slot} tells {name}={told.fields.get(name)}, and its attempts did {sums[name]}"


_SUMMED = {
    "period_reset": ["updated_count"],
    "stripe_reconcile": ["success_count", "success_pages"],
    "usage_counter_cleanup": ["deleted_count"],
    "abandoned_cleanup": ["jobs_cleaned"],
    "artifact_cleanup": ["artifacts_cleaned"],
    "opt_out_cleanup": ["jobs_cleaned"],
}


def _without_time(told: Told) -> dict[str, object]:
    return {name: value for name, value in told.fields.items() if name not in ("duration_ms", "degraded")}


# ---- what is left


def _locks(scene: Scene, _: Record) -> Iterator[str]:
    for client in (scene.redis, scene.spare):
        for key in client.scan_iter("maintenance:*"):
            left = client.pttl(key)
            longest = LOCK_TTL_SECONDS * 1000 if str(key).endswith(":lock") else _LONGEST_RESULT_MS
            if isinstance(left, int) and (left == -1 or left > longest):
                yield f"the key {key} stays in Redis for {left} ms"
    yield from _comes_true(
        scene, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())", 0, "advisory locks are left"
    )  # fmt: skip


def _sessions(scene: Scene, _: Record) -> Iterator[str]:
    yield from _comes_true(
        scene, f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS} AND state <> 'idle'", 0, "sessions are busy"
    )
    yield from _comes_true(
        scene, f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS}", 2 * len(scene.machines), "sessions are kept"
    )


def _left_open(scene: Scene, _: Record) -> Iterator[str]:
    yield from _comes_true(scene, f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS}", 0, "sessions are left")
    for name, proxy in scene.proxies.items():
        try:
            until(lambda proxy=proxy: proxy.open == 0, "closed", 10)  # type: ignore[misc]
        except AssertionError:
            yield f"{proxy.open} connections to {name} are left"


def _comes_true(scene: Scene, sql: str, most: int, what: str) -> Iterator[str]:
    try:
        until(lambda: scene.database.value(sql) <= most, what, 10)
    except AssertionError:
        yield f"{scene.database.value(sql)} {what}"


# ---- data


def _periods(scene: Scene, _: Record) -> Iterator[str]:
    expected, this_month = scene.world.expected, month_of(scene.clock.now())
    for row in scene.database.rows(
        "SELECT user_id, current_period_start s, current_period_end e FROM billing_accounts"
    ):
        wanted = this_month if row["user_id"] in expected.free else expected.paid_periods[row["user_id"]]
        if (row["s"], row["e"]) != wanted:
            yield f"the period of {row['user_id']} is {row['s']} to {row['e']} and not {wanted[0]} to {wanted[1]}"


def _counters(scene: Scene, _: Record) -> Iterator[str]:
    expected = scene.world.expected
    rows = scene.database.rows("SELECT user_id u, period_start s, pages_total p FROM usage_counters")
    there = {(row["u"], row["s"]): row["p"] for row in rows}
    for key, pages in expected.counters.items():
        if there.get(key) != pages:
            yield f"the counter of {key[0]} from {key[1]:%Y-%m-%d} is {there.get(key)} and not {pages}"
    for key in expected.gone_counters & there.keys():
        yield f"the old counter of {key[0]} from {key[1]:%Y-%m-%d} is still there"
    for key in there.keys() - expected.counters.keys() - expected.gone_counters:
        # A new period begins with an empty one.
        if key[0] not in expected.free or there[key] != 0:
            yield f"the counter of {key[0]} from {key[1]:%Y-%m-%d} with {there[key]} pages came from nowhere"


def _billing(scene: Scene, _: Record) -> Iterator[str]:
    counted = [
        Counted(each.identifier, each.customer, each.value, each.timestamp)
        for each in scene.account.events
        if each.refused_code is None
    ]
    rows = scene.database.rows(
        "SELECT CAST(id AS text) id, pages, stripe_reported r, stripe_record_id i FROM usage_events"
    )
    states = scene.database.rows("SELECT CAST(usage_event_id AS text) id, state FROM maintenance.meter_sends")
    verdict = scene.world.ledger.in_the_end(
        counted, {row["id"]: (row["r"], row["i"]) for row in rows}, {row["id"]: row["state"] for row in states}
    )
    yield from verdict.wrong
    for key, state in verdict.shown.items():
        yield f"usage event {key} is {state}, although Stripe would have taken it"
    for row in rows:
        if row["pages"] != scene.world.ledger.events[row["id"]].pages:
            yield f"the pages of usage event {row['id']} have changed"
    drift = scene.database.rows("SELECT * FROM maintenance.drift WHERE resolved_at IS NULL")
    yield from (f"drift: {dict(row)}" for row in drift)


def _content(scene: Scene, _: Record) -> Iterator[str]:
    expected, database = scene.world.expected, scene.database
    runs = {row["id"] for row in database.rows("SELECT CAST(id AS text) id FROM job_runs")}
    yield from (f"run {run} is gone" for run in expected.runs - runs)
    yield from (f"run {run} is still there" for run in expected.gone_runs & runs)
    for file, owner in expected.owners.items():
        found = scene.world.content.owner(file)
        if found != owner:
            yield f"file {file} belongs to {found} and not to {owner}"
    erased = Counter(row["id"] for row in database.rows("SELECT CAST(job_run_id AS text) id FROM maintenance.erasures"))
    if set(erased) != expected.gone_runs or set(erased.values()) - {1}:
        yield f"erasures on record: {dict(erased)}, and not one each of {sorted(expected.gone_runs)}"
    unfinished = database.value("SELECT count(*) FROM maintenance.erasures WHERE completed_at IS NULL")
    if unfinished:
        yield f"{unfinished} erasures are not complete"
    rows = database.rows("SELECT id, state, attempts, error FROM maintenance.object_deletions WHERE done_at IS NULL")
    yield from (f"the outbox still has {dict(row)}" for row in rows)


def _bucket(scene: Scene, _: Record) -> Iterator[str]:
    expected = scene.world.expected
    there = buckets.names(scene.place.front.upstream, scene.bucket)
    yield from (f"the object {name} is gone" for name in sorted(expected.objects - there))
    yield from (f"the object {name} is still there" for name in sorted(expected.gone_objects & there))


# ---- what was done, and what was said


def _counts(scene: Scene, _: Record) -> Iterator[str]:
    """What runs have on record as done is what was done."""
    database = scene.database
    done = {
        ("period_reset", "updated_count"): "SELECT count(*) FROM chaos.changes "
        "WHERE relation = 'billing_accounts' AND operation = 'UPDATE' AND run IS NOT NULL",
        ("usage_counter_cleanup", "deleted_count"): "SELECT count(*) FROM chaos.changes "
        "WHERE relation = 'usage_counters' AND operation = 'DELETE'",
        (
            "abandoned_cleanup",
            "jobs_cleaned",
        ): "SELECT count(*) FROM maintenance.erasures WHERE job = 'abandoned_cleanup'",
        ("opt_out_cleanup", "jobs_cleaned"): "SELECT count(*) FROM maintenance.erasures WHERE job = 'opt_out_cleanup'",
        ("stripe_reconcile", "success_count"): "SELECT count(*) FROM maintenance.meter_sends WHERE state = 'accepted'",
    }
    for (job, name), sql in done.items():
        told = database.value(
            "SELECT coalesce(sum(CAST(counts ->> :name AS bigint)), 0) FROM maintenance.runs "
            "WHERE job = :job AND NOT dry_run",
            job=job, name=name,
        )  # fmt: skip
        if told != database.value(sql):
            yield f"the runs of {job} have {name}={told} on record, and {database.value(sql)} were done"


def _watch(scene: Scene, _: Record) -> Iterator[str]:
    for row in scene.database.rows("SELECT run, relation, count(*) n FROM chaos.late GROUP BY run, relation"):
        yield f"run {row['run']} committed {row['n']} changes to {row['relation']} after another had taken over"
    reduced = scene.database.value(
        "SELECT count(*) FROM chaos.changes WHERE relation = 'usage_counters' AND operation = 'UPDATE' "
        "AND CAST(after ->> 'pages_total' AS bigint) < CAST(before ->> 'pages_total' AS bigint)"
    )
    if reduced:
        yield f"a usage counter was reduced {reduced} times"
    twice = scene.database.value(
        "SELECT count(*) FROM (SELECT before ->> 'id' FROM chaos.changes WHERE relation = 'usage_events' "
        "AND operation = 'UPDATE' AND after ->> 'stripe_reported' = 'true' AND before ->> 'stripe_reported' = 'false' "
        "GROUP BY 1 HAVING count(*) > 1) AS events"
    )
    if twice:
        yield f"{twice} usage events were marked as reported more than once"


def _logs(scene: Scene, _: Record) -> Iterator[str]:
    for log in scene.logs:
        text = log.read_text() if log.exists() else ""
        yield from _says_too_much(scene, "the log", text)
        # A machine that is killed may leave half a line.
        for line in text.splitlines()[:-1]:
            try:
                fields = json.loads(line)
            except ValueError:
                yield f"a log line is no JSON: {line[:200]}"
                continue
            if fields.get("event") == "error":
                yield f"unforeseen: {fields.get('message')} at {fields.get('where')}"
        error = log.with_suffix(".err")
        if error.exists() and error.read_text().strip():
            yield f"standard error has: {error.read_text().strip()[-1500:]}"


def _says_too_much(scene: Scene, where: str, text: str) -> Iterator[str]:
    if _TRACE.search(text):
        yield f"{where} has a stack trace: {text[:500]}"
    for number, secret in enumerate(scene.secrets):
        if secret in text:
            yield f"{where} has secret number {number}"
