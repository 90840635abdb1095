"""What the client has played: by its reports, and by the clock where there are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.playout import REPORT_GRACE_MS, Playout

GRACE_S = REPORT_GRACE_MS / 1000


def test_without_reports_the_clock_plays_from_the_moment_of_sending() -> None:
    playout = Playout(reported=False)
    assert playout.played_ms(5.0) == 0
    playout.sent(10.0, 1_000)
    assert playout.played_ms(10.25) == pytest.approx(250)
    assert playout.ahead_ms(10.25) == pytest.approx(750)
    assert playout.dry_in(10.25) == pytest.approx(0.75)
    assert playout.played_ms(12.0) == playout.sent_ms == 1_000
    assert playout.dry_in(12.0) == 0


def test_a_client_that_ran_dry_plays_on_from_when_more_is_sent() -> None:
    playout = Playout(reported=False)
    playout.sent(10.0, 1_000)
    playout.sent(15.0, 1_000)
    assert playout.played_ms(15.5) == pytest.approx(1_500)


def test_audio_that_is_sent_ahead_is_played_after_what_was_sent_before() -> None:
    playout = Playout(reported=False)
    for _ in range(10):
        playout.sent(10.0, 100)
    assert playout.played_ms(10.3) == pytest.approx(300)
    assert playout.dry_in(10.0) == pytest.approx(1.0)


def test_a_report_is_believed_and_not_the_clock() -> None:
    playout = Playout(reported=True)
    playout.sent(10.0, 1_000)
    assert playout.played_ms(11.0) == 0
    playout.report(400)
    assert playout.played_ms(11.0) == 400
    playout.report(1_000)
    assert playout.ahead_ms(11.0) == 0


def test_a_report_never_takes_back_and_never_exceeds_what_was_sent() -> None:
    playout = Playout(reported=True)
    playout.sent(10.0, 1_000)
    playout.report(600)
    playout.report(300)
    assert playout.played_ms(10.1) == 600
    playout.report(60_000)
    assert playout.played_ms(10.1) == 1_000
    playout.sent(10.2, 500)
    assert playout.played_ms(10.2) == 1_000


def test_a_client_that_owes_its_reports_is_taken_to_be_a_grace_behind_the_clock() -> None:
    playout = Playout(reported=True)
    playout.sent(10.0, 5_000)
    assert playout.played_ms(10.0 + GRACE_S) == 0
    assert playout.played_ms(11.0 + GRACE_S) == pytest.approx(1_000)
    assert playout.ahead_ms(15.0 + GRACE_S) == 0


def test_what_counted_as_played_stays_played_when_more_is_sent_after_a_gap() -> None:
    playout = Playout(reported=True)
    playout.sent(10.0, 1_000)
    assert playout.played_ms(20.0) == 1_000
    playout.sent(20.0, 1_000)
    assert playout.played_ms(20.0) == 1_000
    assert playout.ahead_ms(20.0) == 1_000
    assert playout.ahead_ms(21.0 + GRACE_S) == 0


steps = st.lists(
    st.tuples(st.sampled_from(["sent", "report", "wait"]), st.integers(0, 5_000)),
    max_size=40,
)


@given(steps, st.booleans())
def test_what_was_played_only_grows_stays_within_what_was_sent_and_reaches_it(
    steps: list[tuple[str, int]], reported: bool
) -> None:
    playout, now, before = Playout(reported=reported), 100.0, 0.0
    for step, number in steps:
        if step == "sent":
            playout.sent(now, number)
        elif step == "report":
            playout.report(number)
        else:
            now += number / 1000
        played = playout.played_ms(now)
        assert before - 1e-6 <= played <= playout.sent_ms
        before = played
    assert playout.ahead_ms(now + playout.dry_in(now) + GRACE_S + 0.001) == pytest.approx(0, abs=1e-6)
