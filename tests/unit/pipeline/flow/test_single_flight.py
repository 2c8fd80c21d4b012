"""SingleFlight: one leads, the others wait, and one of them always takes over."""

from __future__ import annotations

from workers.pipeline.flow.single_flight import SingleFlight


def test_the_first_leads_and_the_others_are_handed_out_when_it_lands() -> None:
    flights = SingleFlight[str]()
    assert flights.join("key", "first")
    assert not flights.join("key", "second")
    assert not flights.join("key", "third")
    assert flights.land("key") == ["second", "third"]
    assert flights.join("key", "fourth"), "after landing the next one leads anew"


def test_different_keys_fly_alone() -> None:
    flights = SingleFlight[str]()
    assert flights.join("a", "1")
    assert flights.join("b", "2")
    assert len(flights) == 2


def test_an_abandoned_flight_is_led_by_the_one_that_waited_longest_and_ends_with_the_last() -> None:
    flights = SingleFlight[str]()
    flights.join("key", "first")
    flights.join("key", "second")
    flights.join("key", "third")
    assert flights.abandon("key") == "second"
    assert "key" in flights
    assert flights.abandon("key") == "third"
    assert flights.abandon("key") is None
    assert "key" not in flights
