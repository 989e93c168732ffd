"""Which requests a planned fault is for, and in which order faults come."""

from __future__ import annotations

import pytest

from devstack.stripe_faults import METER_EVENTS, Faults


def kinds(faults: Faults, count: int, **request: str | None) -> list[str | None]:
    asked = {"method": "POST", "path": METER_EVENTS, "identifier": None} | request
    taken = [faults.take(str(asked["method"]), str(asked["path"]), asked["identifier"]) for _ in range(count)]
    return [None if fault is None else fault.kind for fault in taken]


def test_faults_come_in_order_and_as_often_as_told() -> None:
    faults = Faults()
    first = faults.add("429", times=2)
    faults.add("cut_after")
    assert kinds(faults, 4) == ["429", "429", "cut_after", None]
    assert first.times == 0
    faults.add("409", times=None)
    assert kinds(faults, 9) == ["409"] * 9
    faults.clear()
    assert kinds(faults, 1) == [None]


def test_a_fault_is_for_the_requests_that_it_names() -> None:
    faults = Faults()
    faults.add("cut_before", identifier="a")
    faults.add("500_before", path="/v1/billing/meters/*", method="GET")
    assert kinds(faults, 1, identifier="b") == [None]
    assert kinds(faults, 1, identifier="a") == ["cut_before"]
    assert kinds(faults, 1, method="GET") == [None]
    assert kinds(faults, 1, method="GET", path="/v1/billing/meters/mtr_1") == ["500_before"]


def test_a_fault_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no fault is called 'flood'"):
        Faults().add("flood")
    with pytest.raises(ValueError, match="no option seconds"):
        Faults().add("hang", seconds=3)
    with pytest.raises(ValueError, match="no fault is called 'flood'"):
        Faults().random(1, {"flood": 0.1})
    with pytest.raises(ValueError, match="probabilities"):
        Faults().random(1, {"429": 0.6, "409": 0.6})


def test_random_faults_are_the_same_for_the_same_seed_and_come_after_planned_ones() -> None:
    def drawn(seed: int) -> list[str | None]:
        faults = Faults()
        faults.random(seed, {"429": 0.25, "cut_after": 0.25})
        faults.add("hang")
        assert kinds(faults, 5, method="GET") == [None] * 5
        return kinds(faults, 1001)

    first = drawn(1)
    assert first[0] == "hang"
    assert first == drawn(1) != drawn(2)
    assert {kind: first[1:].count(kind) // 100 for kind in ("429", "cut_after", None)} == {
        "429": 2,
        "cut_after": 2,
        None: 5,
    }
