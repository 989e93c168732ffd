"""What is to happen, drawn from a seed and from nothing else: rounds of firings, each with its troubles.

The same seed gives the same world and the same steps. How threads and processes interleave is the machine's business,
so that a finding may need its seed to be played more than once.
"""

import random
from dataclasses import dataclass

from devstack.proxy import Kind, Side
from functions.registry import JOBS

BACKENDS = ("postgres", "redis", "gcs", "stripe")
SKEW_SECONDS = 240
# Those that wait on others.
DIVISIBLE = frozenset(name for name, job in JOBS.items() if {*job.needs} & {"stripe", "gcs"})
# The service and an operator.
DEEDS = ("use", "come back to a draft", "set a hold")
# What happens to servers as a whole.
BLOWS = ("lose redis", "fail redis over", "end sessions")
_SIDES: tuple[Side, ...] = ("up", "down")
_STRIPE = ("429", "409", "500_before", "500_after", "cut_before", "cut_after", "unreadable")
_GCS = ("503", "429", "500", "cut_before", "cut_after")
_KINDS: tuple[Kind, ...] = ("cut", "reset", "reset", "blackhole", "delay", "slow", "refuse")
_TAKEOVERS = 0.4
_WITHOUT_REDIS = ("absent", "cut off from 0", "cut off from 1")
# About as many bytes as a round sends up to the server, and gets down from it.
_BYTES = {
    "postgres": {"up": 40_000, "down": 18_000},
    "redis": {"up": 3_500, "down": 700},
    "gcs": {"up": 6_000, "down": 50_000},
    "stripe": {"up": 4_500, "down": 4_000},
}
_USES = {name: ("postgres", "redis", *job.needs) for name, job in JOBS.items()}


@dataclass(frozen=True)
class Fire:
    """One delivery of a firing, or a manual run, to a machine. `slot` is the number of the round that it belongs to."""

    machine: int
    job: str
    slot: int | None
    after_ms: int = 0
    body: str = ""


@dataclass(frozen=True)
class Trouble:
    """A fault of a proxy, planned when a round begins; or at that byte a signal to a machine, or a takeover.

    The byte is one of all connections together, or of the one that is made as the so-manyth from then on.

    A takeover: Redis loses all keys, the round's jobs are fired again on that machine, and the connection gets slow. So
    the new run begins while the old one is in the middle of a transaction.
    """

    backend: str
    kind: Kind
    after: int
    side: Side
    everywhere: bool
    seconds: float
    signal: str = ""
    machine: int = 0
    connection: int | None = None


@dataclass(frozen=True)
class Refusal:
    """A fault that a stand-in plays itself."""

    backend: str
    kind: str
    times: int
    method: str = "*"


@dataclass(frozen=True)
class Blow:
    """Something that happens a moment after the firings of a round."""

    what: str
    after_ms: int


@dataclass(frozen=True)
class Round:
    """Some minutes pass, troubles are set up, and firings are delivered at the same time.

    Afterwards all servers are well again if it `heals`, and stopped machines go on if it `wakes`.
    """

    minutes: int
    troubles: tuple[Trouble, ...]
    refusals: tuple[Refusal, ...]
    firings: tuple[Fire, ...]
    blows: tuple[Blow, ...]
    heals: bool
    wakes: bool


@dataclass(frozen=True)
class Schedule:
    """A whole schedule. `skews` are how far the machines' clocks are off, in seconds.

    `redis`: it is there, the installation has none, or one machine cannot reach it: then both may run at once.
    `wakes_late`: a machine that is still stopped at the end goes on when the other one has done everything.
    `shards`: how many parts a firing is cut into of the jobs that can be. 1: none, and there is no queue.
    `refused_tasks`: so many tasks the queue does not take at first.
    """

    seed: int
    skews: tuple[int, int]
    rounds: tuple[Round, ...]
    wakes_late: bool = False
    redis: str = "there"
    shards: int = 1
    refused_tasks: int = 0

    @property
    def loses_locks(self) -> bool:
        """Whether anything in it may make a run lose its lock or its word."""
        blows = {blow.what for each in self.rounds for blow in each.blows}
        troubles = [trouble for each in self.rounds for trouble in each.troubles]
        return (
            self.redis.startswith("cut off")
            or bool(blows & set(BLOWS))
            or any(trouble.signal or trouble.backend in ("redis", "postgres") for trouble in troubles)
        )


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    chance = random.Random(f"schedule {seed}")  # noqa: S311  nothing secret
    skews = (chance.randint(-SKEW_SECONDS, SKEW_SECONDS), chance.randint(-SKEW_SECONDS, SKEW_SECONDS))
    rounds: list[Round] = []
    for number in range(chance.randint(2, 4)):
        rounds.append(_round(chance, number, rounds))
    redis = chance.choice(["there"] * 6 + list(_WITHOUT_REDIS))
    # Of numbers of their own, so that a seed whose firings are whole is as it was before there were any others.
    cutting = random.Random(f"shards {seed}")  # noqa: S311  nothing secret
    shards = cutting.choice([1, 1, 2, 3])
    return Schedule(
        seed,
        skews,
        tuple(rounds),
        wakes_late=chance.random() < 0.7,
        redis=redis,
        shards=shards,
        refused_tasks=cutting.choice([0, 0, 1, 4]) if shards > 1 else 0,
    )


def _round(chance: random.Random, number: int, earlier: list[Round]) -> Round:
    firings = list(_firings(chance, number, earlier))
    jobs = sorted({fire.job for fire in firings})
    troubles = tuple(_trouble(chance, jobs) for _ in range(chance.choice([0, 1, 1, 2])))
    if chance.random() < _TAKEOVERS:
        after = chance.randrange(_BYTES["postgres"]["up"] // 2)
        troubles += (Trouble("postgres", "delay", after, "up", False, 0.03, "takeover", chance.randrange(2)),)
    refusals = tuple(_refusal(chance) for _ in range(chance.choice([0, 0, 1, 2])))
    blows = tuple(Blow(chance.choice(BLOWS), chance.randint(0, 60)) for _ in range(chance.choice([0, 0, 1])))
    blows += tuple(Blow(chance.choice(DEEDS), chance.randint(0, 60)) for _ in range(chance.choice([0, 1, 2])))
    return Round(
        minutes=0 if number == 0 else chance.choice([1, 5, 20]),
        troubles=troubles,
        refusals=refusals,
        firings=tuple(firings),
        blows=tuple(sorted(blows, key=lambda blow: blow.after_ms)),
        heals=chance.random() < 0.7,
        wakes=chance.random() < 0.4,
    )


def _firings(chance: random.Random, number: int, earlier: list[Round]) -> list[Fire]:
    firings = []
    for job in chance.sample(sorted(JOBS), chance.randint(1, 3)):
        # A duplicate may go to the same machine, or to the other one, at once or a moment later.
        for _ in range(chance.choice([1, 1, 2, 2, 3])):
            firings.append(Fire(chance.randrange(2), job, number, chance.choice([0, 0, 0, 20, 80])))
    if earlier and chance.random() < 0.4:
        # Out of order: an earlier firing comes once more.
        again = chance.choice(chance.choice(earlier).firings)
        firings.append(Fire(chance.randrange(2), again.job, again.slot, chance.choice([0, 30])))
    if chance.random() < 0.25:
        body = chance.choice(['{"dry_run": true}', '{"limit": 1}', '{"force": true}'])
        firings.append(Fire(chance.randrange(2), chance.choice(sorted(JOBS)), None, chance.choice([0, 30]), body))
    return firings


def _trouble(chance: random.Random, jobs: list[str]) -> Trouble:
    backend = chance.choice(_USES[chance.choice(jobs)])
    side = chance.choice(_SIDES)
    # Early in a connection its login is broken, or what it was made for.
    connection = chance.randint(1, 4) if chance.random() < 0.2 else None
    after = chance.randrange(_BYTES[backend][side] if connection is None else 1_500)
    signal = chance.choice(["", "", "", "", "kill", "kill", "stop"])
    kind = "call" if signal else chance.choice(_KINDS)
    return Trouble(
        backend,
        kind,
        after,
        side,
        everywhere=chance.random() < 0.4,
        seconds=chance.choice([0.002, 0.01]) if kind == "delay" else chance.choice([0.1, 0.3]),
        signal=signal,
        machine=chance.randrange(2),
        connection=connection,
    )


def _refusal(chance: random.Random) -> Refusal:
    if chance.random() < 0.5:
        return Refusal("stripe", chance.choice(_STRIPE), chance.choice([1, 2, 5]), chance.choice(["POST", "POST", "*"]))
    return Refusal("gcs", chance.choice(_GCS), chance.choice([1, 3, 10]), chance.choice(["DELETE", "DELETE", "*"]))
