"""What goes wrong between stripe_reconcile and the stand-in in the demo, and what arrived there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from devstack.stripe_account import Account
from devstack.stripe_faults import Fault
from devstack.stripe_routes import read_params
from devstack.stripe_server import Recorded, StripeServer
from devstack.usage import KINDS, Standing, Used


@dataclass(frozen=True)
class Trouble:
    """A fault of the stand-in's for so many events, each so many times; what it is, and why it does no harm."""

    kind: str
    what: str
    why: str
    events: int = 4
    times: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


# What a proxy on the way may answer.
_NOT_STRIPE: Mapping[str, Any] = {"status": 200, "body": "<html>Please log in to this network.</html>"}

TROUBLES = (
    Trouble("429", "429", "Not taken: half the rate, and resent.", events=3),
    Trouble("500_before", "500, not taken", "Resent under the same identifier."),
    Trouble("500_after", "500, though taken", "Resent: 'it exists already' means yes."),
    Trouble("cut_after", "taken, then cut off", "Resent: Stripe repeats its answer."),
    Trouble("unreadable", "taken, and no JSON comes", "What cannot be read is no yes: resent.", events=3),
    Trouble("status", "200 from in between", "The same: Stripe has not seen it.", events=3, options=_NOT_STRIPE),
    Trouble("cut_after", "taken, cut off 3 times", "In doubt until the next firing.", events=3, times=3),
    Trouble("cut_before", "not taken, cut off 3 times", "In doubt, too: here it looks the same.", events=3, times=3),
)

_STATUSES = {None: "no answer", 400: "400 (exists already)"}


class Troubles:
    """The troubles, dealt out to events that are to be sent.

    `exist_already` are the events of which Stripe will say that, `in_doubt` those of which nothing will be known after
    a run, `not_taken` those of them that Stripe will not have.
    """

    def __init__(self, account: Account, used: Sequence[Used]) -> None:
        self._account = account
        self._planned: list[tuple[Trouble, Fault]] = []
        # By their ids, which are hashes: spread over all kinds and users.
        sendable = (each for each in used if each.goal is Standing.BILLED and not KINDS[each.kind].is_at_stripe)
        hit = iter(sorted(each.id for each in sendable))
        self._dealt = [(trouble, next(hit)) for trouble in TROUBLES for _ in range(trouble.events)]
        # Those that are resent under another Idempotency-Key, though Stripe has them.
        self.exist_already = {key for trouble, key in self._dealt if trouble.kind in ("500_after", "unreadable")}
        self.in_doubt = {key for trouble, key in self._dealt if trouble.times > 1}
        self.not_taken = {key for trouble, key in self._dealt if trouble.times > 1 and trouble.kind == "cut_before"}

    def begin(self) -> None:
        """Let the stand-in play them from now on."""
        for trouble, key in self._dealt:
            fault = self._account.faults.add(trouble.kind, times=trouble.times, identifier=key, **trouble.options)
            self._planned.append((trouble, fault))

    def left(self) -> str:
        """What did not come about, in words; empty when everything did."""
        left = Counter(trouble.what for trouble, fault in self._planned if fault.times)
        return ", ".join(f"{times} x {what}" for what, times in left.items())


class Arrivals:
    """What reaches the stand-in from now on."""

    def __init__(self, server: StripeServer) -> None:
        self._server = server
        self._since = len(server.requests)

    def all(self) -> list[Recorded]:
        """Every request, in its order."""
        return self._server.requests[self._since :]

    def posts(self) -> list[Recorded]:
        """Those that are no reads."""
        return [each for each in self.all() if each.method != "GET"]

    def identifiers(self) -> set[str]:
        """The identifiers of the events that were sent."""
        return {read_params(each.body.decode())["identifier"] for each in self.posts()}

    def refused(self) -> set[str]:
        """The identifiers of those of which Stripe has said that they exist already."""
        return {read_params(each.body.decode())["identifier"] for each in self.posts() if each.status == 400}

    def told(self) -> str:
        """How much arrived, and how it was answered."""
        posts = self.posts()
        answers = Counter(each.status for each in posts)
        shown = [f"{times} x {_STATUSES.get(each, each)}" for each, times in sorted(answers.items(), key=_by_status)]
        reads = len(self.all()) - len(posts)
        return f"{reads} reads, and {len(posts)} sends of {len(self.identifiers())} events: {', '.join(shown)}"


def _by_status(item: tuple[int | None, int]) -> int:
    return item[0] or 1000
