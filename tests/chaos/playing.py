"""Plays a schedule: troubles and firings, then everything heals, and each firing is delivered until it is completed."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from devstack.proxy import Fault
from functions.registry import JOBS
from tests.chaos.machine import Answer, Machine
from tests.chaos.place import LOCK_TTL_SECONDS, Scene
from tests.chaos.schedule import Blow, Fire, Refusal, Round, Trouble
from tests.chaos.tasks import Task
from tests.support.redis import lose_everything

# More than any run may take in which all that hangs is cut after some seconds.
_PATIENCE_SECONDS = 60.0
_MOST_ATTEMPTS = 8
_WELL = 200
# A lock that a dead machine left lasts so long; a transaction of a stopped one is ended by the server after five.
_BUSY_SECONDS = 12.0
_ENDING = timedelta(hours=3)


@dataclass(frozen=True)
class Told:
    """One answer: to which firing, or which shard of it, and what it said."""

    job: str
    slot: datetime | None
    code: int
    text: str
    shard: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        """The answer's fields; none where it is no JSON object."""
        try:
            value = json.loads(self.text)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def status(self) -> str:
        """How the invocation ended."""
        return str(self.fields.get("status"))

    @property
    def goes_on(self) -> bool:
        """Whether others go on: its shards, or another step."""
        return bool(self.fields.keys() & {"handed_to", "continued_by"})


@dataclass(frozen=True)
class _Waiting:
    """What a machine has been asked and has not answered yet; `task` where the queue asked."""

    job: str
    slot: datetime | None
    machine: Machine
    answer: Future[Answer | None]
    task: Task | None = None


@dataclass
class Record:
    """What was seen while a schedule was played. `findings` are what went wrong in the playing itself.

    `may_lose_locks`: something happened that explains a run that lost its lock.
    """

    may_lose_locks: bool

    told: list[Told] = field(default_factory=list)
    slots: set[tuple[str, datetime]] = field(default_factory=set)
    replays: list[tuple[Told, Told]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)


class Player:
    """Plays one schedule on a scene; `record` grows with it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.record = Record(scene.schedule.loses_locks)
        self._moments: list[datetime] = []
        self._open: list[_Waiting] = []

    def play(self) -> Record:
        """All rounds; then everything heals, and each firing is delivered until it is completed."""
        for each in self.scene.schedule.rounds:
            self._round(each)
        self._heal()
        if not self.scene.schedule.wakes_late or all(machine.is_stopped for machine in self.scene.machines):
            self._wake()
        self._collect(also_stopped=False)
        self.scene.replace_the_dead()
        healed = len(self.record.told)
        self._deliver_what_is_left()
        for job, slot in sorted(self.record.slots):
            self._until_completed(job, slot)
        self._wake()
        self._collect(also_stopped=True)
        # Long enough for whatever was put off to be due again.
        self.scene.clock.advance(seconds=_ENDING.total_seconds())
        last = self.scene.clock.now()
        ended = [told for told in self.record.told[healed:] if told.status == "completed"]
        alone = {told.job for told in ended if told.shard == 0}
        if self.scene.schedule.redis.startswith("cut off"):
            # What completed without Redis does not see the lock there of a machine that died.
            self._wait_for_the_dead()
        for job in JOBS:
            self.record.slots.add((job, last))
            self._until_completed(job, last, is_alone=job in alone)
        self._replay()
        return self.record

    # ---- rounds

    def _round(self, what: Round) -> None:
        scene = self.scene
        scene.clock.advance(minutes=what.minutes)
        self._moments.append(scene.clock.now())
        scene.replace_the_dead()
        for refusal in what.refusals:
            self._refuse(refusal)
        for trouble in what.troubles:
            self._trouble(trouble, what)
        if scene.tasks:
            self._hand_out(scene.tasks.take_left())
        began = time.monotonic()
        happenings: list[Fire | Blow] = sorted([*what.firings, *what.blows], key=lambda each: each.after_ms)
        for each in happenings:
            time.sleep(max(0.0, began + each.after_ms / 1000 - time.monotonic()))
            if isinstance(each, Fire):
                self._fire(each)
            else:
                self._strike(each)
        self._collect(also_stopped=False)
        if what.heals:
            self._heal()
        if what.wakes:
            self._wake()
            self._collect(also_stopped=True)

    def _fire(self, fire: Fire) -> None:
        slot = None if fire.slot is None else self._moments[fire.slot]
        if slot is not None:
            self.record.slots.add((fire.job, slot))
        machine = self.scene.machines[fire.machine]
        answer = machine.fire(fire.job, slot, fire.body.encode())
        self._open.append(_Waiting(fire.job, slot, machine, answer))

    def _hand_out(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            assert self.scene.tasks is not None
            self._hand_to(self.scene.machines[self.scene.tasks.some_machine(len(self.scene.machines))], task)

    def _hand_to(self, machine: Machine, task: Task) -> None:
        answer = machine.deliver(task.job, task.name, task.body)
        self._open.append(_Waiting(task.job, task.slot, machine, answer, task))

    def _trouble(self, what: Trouble, round_: Round) -> None:
        proxy = self.scene.proxies[what.backend]
        if what.signal:
            action = partial(self._signal, what, round_)
            proxy.plan(Fault("call", what.after, what.side, what.connection, action=action))
        if what.kind != "call":
            rate = 20_000 if what.kind == "slow" else 0
            proxy.plan(Fault(what.kind, what.after, what.side, what.connection, what.everywhere, what.seconds, rate))

    def _signal(self, what: Trouble, round_: Round) -> None:
        """In the proxy's thread, at the very byte."""
        self.record.struck.append(what.signal)
        machine = self.scene.machines[what.machine]
        if what.signal == "kill":
            machine.kill()
        elif what.signal == "stop":
            machine.stop()
        else:
            lose_everything(self.scene.redis)
            lose_everything(self.scene.spare)
            for job, slot in sorted({(each.job, each.slot) for each in round_.firings if each.slot is not None}):
                self._fire(Fire(what.machine, job, slot))

    def _refuse(self, what: Refusal) -> None:
        if what.backend == "stripe":
            path = "/v1/billing/meter_events" if what.method == "POST" else "*"
            self.scene.account.faults.add(what.kind, times=what.times, method=what.method, path=path)
        elif what.kind.startswith("cut"):
            self.scene.place.front.cut(
                "before" if what.kind == "cut_before" else "after", times=what.times, method=what.method
            )
        else:
            self.scene.place.front.fail(int(what.kind), times=what.times, method=what.method)

    def _strike(self, blow: Blow) -> None:
        scene = self.scene
        self.record.struck.append(blow.what)
        if blow.what == "lose redis":
            lose_everything(scene.redis)
            lose_everything(scene.spare)
        elif blow.what == "fail redis over":
            self._fail_over()
        elif blow.what == "end sessions":
            scene.database.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'bytereview-maintenance'"
            )
        elif blow.what == "use":
            scene.world.use()
        elif blow.what == "come back to a draft":
            scene.world.come_back_to_a_draft()
        elif blow.what == "set a hold":
            scene.world.set_a_hold()

    def _fail_over(self) -> None:
        """To the other server, which has of the keys what had been copied: some, or none."""
        scene, proxy = self.scene, self.scene.proxies["redis"]
        is_main = proxy.upstream[1] != scene.place.spare.port
        old, new = (scene.redis, scene.spare) if is_main else (scene.spare, scene.redis)
        lose_everything(new)
        for key in sorted(old.scan_iter("maintenance:*")):
            left = old.pttl(key)
            if isinstance(left, int) and left > 0 and scene.world.chance.random() < 0.5:
                if old.type(key) == "hash":
                    for name, value in old.hgetall(key).items():
                        new.hset(key, name, value)
                else:
                    new.set(key, old.get(key) or "")
                new.pexpire(key, left)
        proxy.upstream = (proxy.host, new.connection_pool.connection_kwargs["port"])
        proxy.reset()

    def _heal(self) -> None:
        for proxy in self.scene.proxies.values():
            proxy.heal()
        self.scene.account.faults.clear()
        self.scene.place.front.clear()

    def _wake(self) -> None:
        for machine in self.scene.machines:
            if machine.is_stopped and not machine.was_killed:
                machine.go_on()

    def _collect(self, *, also_stopped: bool) -> None:
        """Wait for answers; those of stopped machines come when they have gone on."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while self._open:
            if also_stopped:
                # What goes on may run into a stop that is still planned.
                self._wake()
            waiting = [each for each in list(self._open) if also_stopped or not each.machine.is_stopped]
            if not waiting:
                return
            if time.monotonic() > end:
                late = [f"no answer within {_PATIENCE_SECONDS:g} s from {each.job}" for each in waiting]
                self.record.findings += late
                self._open = []
                return
            first = waiting[0]
            try:
                answer = first.answer.result(0.05)
            except NoAnswer:
                continue
            self._open.remove(first)
            told = self._note(first.job, first.slot, answer, first.task.shard if first.task else 0)
            if self.scene.tasks:
                if first.task and (told is None or told.code != _WELL):
                    self.scene.tasks.left.append(first.task)
                self._hand_out(self.scene.tasks.take_new())

    def _note(self, job: str, slot: datetime | None, answer: Answer | None, shard: int = 0) -> Told | None:
        if answer is None:
            return None
        told = Told(job, slot, answer.code, answer.text, shard)
        self.record.told.append(told)
        return told

    # ---- afterwards

    def _deliver_what_is_left(self) -> None:
        """Have the queue deliver until nothing is in it."""
        tasks, end = self.scene.tasks, time.monotonic() + _BUSY_SECONDS
        if tasks is None:
            return
        # What was delivered to a machine that stands still has passed the queue's deadline by now.
        tasks.left += [each.task for each in self._open if each.task and each.machine.is_stopped]
        while left := tasks.take_left():
            if time.monotonic() > end:
                said = "; ".join(told.text.strip() for told in self.record.told[-len(left) :])
                self.record.findings.append(f"{len(left)} tasks are not done when all was well again: {said}")
                return
            awake = [machine for machine in self.scene.machines if not machine.is_stopped]
            for number, task in enumerate(left):
                self._hand_to(awake[number % len(awake)], task)
            self._collect(also_stopped=False)
            if tasks.left:
                # Somebody is busy, or waits for a moment: the queue tries again with waits.
                time.sleep(0.1)
                self.scene.clock.advance(minutes=1)

    def _deliver(self, job: str, slot: datetime, attempt: int) -> Told | None:
        awake = [machine for machine in self.scene.machines if not machine.is_stopped]
        machine = awake[attempt % len(awake)]
        try:
            return self._note(job, slot, machine.fire(job, slot).result(_PATIENCE_SECONDS))
        except NoAnswer:
            self.record.findings.append(f"no answer within {_PATIENCE_SECONDS:g} s from {job} when all was well again")
            return None

    def _wait_for_the_dead(self) -> None:
        """Until the locks in Redis have expired that a machine left when it died."""
        end = time.monotonic() + 3 * LOCK_TTL_SECONDS
        while left := list(self.scene.redis.scan_iter("maintenance:*:lock")):
            if time.monotonic() > end:
                self.record.findings.append(f"nothing runs, and locks stay in Redis: {left}")
                return
            time.sleep(0.05)

    def _until_completed(self, job: str, slot: datetime, *, is_alone: bool = False) -> None:
        """Deliver a firing as often as it takes. `is_alone`: no run of the job goes on, and none has left a lock."""
        attempt, end = 0, time.monotonic() + _BUSY_SECONDS
        while attempt < _MOST_ATTEMPTS:
            # Alone, it runs on the other machine than before: what was left behind is in its way.
            told = self._deliver(job, slot, attempt + is_alone)
            if told is not None and told.status in ("completed", "replayed"):
                return
            if told is not None and told.goes_on:
                self._deliver_what_is_left()
            if told is not None and told.status == "busy" and time.monotonic() < end:
                if is_alone:
                    self.record.findings.append(f"{job} is busy although nothing of it runs: {told.text.strip()}")
                time.sleep(0.1)
                continue
            attempt += 1
            self.scene.clock.advance(minutes=3)
        self.record.findings.append(
            f"{job} of {slot:%H:%M} is not completed after {attempt} attempts: {told.text if told else 'no answer'}"
        )

    def _replay(self) -> None:
        """Each firing once more: answered from Redis, and from the ledger where Redis has lost it."""
        for job, slot in sorted(self.record.slots):
            first = self._replayed(job, slot, 0)
            for client in (self.scene.redis, self.scene.spare):
                client.delete(f"maintenance:{job}:0:result:{slot.isoformat().replace('+00:00', 'Z')}")
            second = self._replayed(job, slot, 1)
            if first is not None and second is not None:
                self.record.replays.append((first, second))

    def _replayed(self, job: str, slot: datetime, attempt: int) -> Told | None:
        """One more delivery. A connection that broke within the last second is trusted once more: that is no answer."""
        told = self._deliver(job, slot, attempt)
        return self._deliver(job, slot, attempt) if told is not None and told.status == "unavailable" else told
