"""The stored trials: what is written is read back, claims of dead processes are taken over, deaths are counted."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from drawn import curves, recipes
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from lrtune.core.curve import Curve, Point
from lrtune.core.optuna_logging import quiet
from lrtune.core.outcome import Outcome
from lrtune.core.records import Segment, TrialRecord
from lrtune.core.space import Space
from lrtune.study.settings import Settings
from lrtune.study.trials.recovery import worker_lease
from lrtune.study.trials.stored_trial import RECORD, Claim, StoredTrial, decode, encode
from lrtune.study.trials.trial_store import TrialStore
from lrtune.workers.lease import Lease
from lrtune.workers.process import Death

if TYPE_CHECKING:
    from collections.abc import Iterator

SPACE = Space(lr=(1e-5, 10.0))
SETTINGS = Settings(epochs=10)

TIMES = st.floats(0, 2e9)
TEXT = st.text(max_size=20)
leases = st.builds(
    Lease, host=TEXT, boot_id=TEXT, pid=st.integers(1, 10**6), started=TEXT, worker=TEXT, until_time=TIMES
)
claims = st.builds(Claim, until=st.floats(0, 100), repaid_epochs=st.floats(0, 100), token=TEXT, lease=leases)
segments = st.builds(Segment, at=TIMES, seconds=TIMES, begin=TIMES, end=TIMES, worker=TEXT, why=TEXT)
records = st.builds(
    TrialRecord,
    number=st.just(3),
    recipe=recipes,
    params=st.just({"lr": 0.1}),
    curve=curves(),
    outcome=st.none() | st.sampled_from(Outcome),
    why=TEXT,
    value=st.none() | st.floats(-10, 10),
    trained=TIMES,
    segments=st.lists(segments, max_size=3).map(tuple),
    started=st.none() | TIMES,
    finished=st.none() | TIMES,
)
entries = st.builds(
    StoredTrial,
    record=records,
    claim=st.none() | claims,
    saved=st.booleans(),
    owner=st.none() | leases,
    deaths=st.integers(0, 3),
    resume=st.none() | TIMES,
)


@given(entries, st.booleans())
def test_an_entry_survives_the_storage(entry: StoredTrial, closed: bool) -> None:
    text = json.dumps(encode(entry), allow_nan=False)
    back = decode(3, json.loads(text), closed=closed)
    assert back == dataclasses.replace(entry, closed=closed)


def test_the_reason_of_a_claim_is_known_to_the_claiming_worker_alone(trial_store: TrialStore) -> None:
    claimed = trial_store.claim(begun(trial_store, 1.0, claim=None), 3.0, 0.0, "next look")
    (stored,) = trial_store.trials()
    assert stored == claimed
    assert [trial.claim.why for trial in (claimed, stored) if trial.claim] == ["next look", ""]


# -- one study in memory ----------------------------------------------------------------------------------


@pytest.fixture
def trial_store() -> Iterator[TrialStore]:
    storage = optuna.storages.InMemoryStorage()
    with quiet():
        study = optuna.create_study(storage=storage, study_name="s")
    with worker_lease() as me:
        yield TrialStore(storage=storage, study=study, settings=SETTINGS, me=me)


def curve(*values: float) -> Curve:
    return Curve(Point(step=i + 1, epoch=float(i + 1), values={"valid_loss": v}) for i, v in enumerate(values))


def begun(trial_store: TrialStore, *values: float, until: float = 5.0, **changes: Any) -> StoredTrial:
    """A trial that was started, trained as far as its values go, and is still claimed."""
    recipe = SPACE.recipe({"lr": 0.1}, epochs=10)
    entry = trial_store.start(SPACE, {"lr": 0.1}, recipe, until, "first look")
    end = float(len(values))
    segment = Segment(at=0.0, seconds=1.0, begin=0.0, end=end)
    record = dataclasses.replace(entry.record, curve=curve(*values), trained=end, segments=(segment,) if values else ())
    return trial_store.write(dataclasses.replace(entry, record=record, **changes))


def ended(entry: StoredTrial, outcome: Outcome, value: float | None = None) -> StoredTrial:
    return dataclasses.replace(entry, record=dataclasses.replace(entry.record, outcome=outcome, value=value))


def dead_lease(worker: str = "main") -> Lease:
    """Of a process that has just ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    from lrtune.workers.lease import process_start

    lease = dataclasses.replace(Lease.mine(worker), pid=process.pid, started=process_start(process.pid) or "")
    process.communicate(b"\n")
    return lease


def claimed_by(trial_store: TrialStore, lease: Lease | None, *values: float, **changes: Any) -> StoredTrial:
    return begun(trial_store, *values, claim=Claim(until=5.0, token="t", lease=lease), **changes)  # noqa: S106 -- no secret


def test_a_trial_is_started_in_one_step_and_read_again(trial_store: TrialStore) -> None:
    entry = begun(trial_store, 1.0, 0.5)
    assert trial_store.trials() == [entry]
    (trial,) = trial_store.study.trials
    assert (trial.state, trial.params) == (TrialState.RUNNING, {"lr": 0.1})
    seen = trial_store.view(entry)
    assert (seen.trained, seen.until, seen.mine, seen.open) == (2.0, 5.0, True, False)


def test_what_is_claimed_is_spent(trial_store: TrialStore) -> None:
    one, two = begun(trial_store, 1.0, 0.5), begun(trial_store, 1.0, claim=None)
    assert trial_store.spent([one, two]) == pytest.approx((5 + 1) / 10)
    assert trial_store.spent([one, trial_store.claim(two, 4.0, 0.0)]) == pytest.approx((5 + 1 + 3) / 10)
    lost = trial_store.claim(two, 4.0, 1.0)
    assert trial_store.spent([one, lost]) == pytest.approx((5 + 1 + 4) / 10), "all of it a second time"
    before = dataclasses.replace(trial_store, settings=dataclasses.replace(SETTINGS, spent=2.0))
    assert before.spent([]) == 2.0


def test_a_state_that_is_lost_is_paid_again(trial_store: TrialStore) -> None:
    assert trial_store.view(begun(trial_store, 1.0, 0.5, claim=None)).repaid_epochs == 2.0
    assert trial_store.view(begun(trial_store, 1.0, 0.5, claim=None, saved=True)).repaid_epochs == 0.0
    within = begun(trial_store, claim=None)  # it was cut off before its first report
    record = dataclasses.replace(
        within.record, segments=(Segment(at=0.0, seconds=1.0, begin=0.0, end=0.5),), trained=0.5
    )
    assert trial_store.view(dataclasses.replace(within, record=record)).repaid_epochs == 0.5
    held = trial_store.view(begun(trial_store, 1.0, claim=None, owner=trial_store.me))
    assert (held.repaid_epochs, held.mine) == (0.0, True)
    other = trial_store.view(begun(trial_store, 1.0, claim=None, owner=dead_lease()))
    assert (other.mine, other.open) == (False, False)


@pytest.mark.parametrize("outcome", Outcome)
def test_optuna_hears_of_every_end(trial_store: TrialStore, outcome: Outcome) -> None:
    value = 0.5 if outcome is Outcome.COMPLETED else None
    last = math.nan if outcome is Outcome.NON_FINITE else 0.5
    entry = trial_store.end(ended(begun(trial_store, 1.0, last), outcome, value))
    assert entry.closed
    (trial,) = trial_store.study.trials
    expected = {Outcome.COMPLETED: TrialState.COMPLETE, Outcome.PRUNED: TrialState.PRUNED}
    state = TrialState.PRUNED if outcome.diverged else expected.get(outcome, TrialState.FAIL)
    assert trial.state is state
    assert trial.user_attrs["outcome"] == outcome.value
    assert ("diverged" in trial.constraints) == outcome.diverged
    assert trial.values == ([0.5] if outcome in {Outcome.COMPLETED, Outcome.PRUNED} else None)
    (again,) = trial_store.trials()
    assert (again.closed, again.claim, again.record.outcome) == (True, None, outcome)


def test_a_trial_without_an_outcome_cannot_be_ended(trial_store: TrialStore) -> None:
    with pytest.raises(ValueError, match="no outcome"):
        trial_store.end(begun(trial_store, 1.0))


def test_reports_are_whole_epochs_and_finite(trial_store: TrialStore) -> None:
    entry = begun(trial_store)
    for values in ((1.0,), (1.0, 0.5), (1.0, 0.5, math.nan)):
        trial_store.report(dataclasses.replace(entry, record=dataclasses.replace(entry.record, curve=curve(*values))))
    assert trial_store.study.trials[0].intermediate_values == {1: 1.0, 2: 0.5}


def test_a_claim_is_held_until_somebody_takes_it(trial_store: TrialStore) -> None:
    entry = begun(trial_store, 1.0)
    assert trial_store.holds_claim(entry)
    trial_store.claim(entry, 6.0, 0.0)
    assert not trial_store.holds_claim(entry), "the same process, but another claim"
    trial_store.end(ended(entry, Outcome.PRUNED))
    assert not trial_store.holds_claim(entry)


# -- recovery ---------------------------------------------------------------------------------------------


def test_what_the_living_hold_is_left_alone(trial_store: TrialStore) -> None:
    with worker_lease() as neighbour:
        theirs = claimed_by(trial_store, neighbour, 1.0)
        assert trial_store.recover([theirs]) == [theirs]


def test_a_claim_of_its_own_between_two_segments_was_stored_without_an_answer(trial_store: TrialStore) -> None:
    mine = begun(trial_store, 1.0)
    (found,) = trial_store.recover([mine])
    assert found == dataclasses.replace(mine, claim=None, resume=5.0)


def test_what_the_dead_held_is_free_and_its_record_stays(trial_store: TrialStore) -> None:
    entry = claimed_by(trial_store, dead_lease(), 1.0, 0.5)
    (found,) = trial_store.recover(trial_store.trials())
    assert found == dataclasses.replace(entry, claim=None, resume=5.0)
    assert trial_store.trials() == [found], "written, not only said"
    assert trial_store.view(found).open


def test_a_search_of_this_process_that_has_ended_holds_nothing(trial_store: TrialStore) -> None:
    with worker_lease() as before:
        entry = claimed_by(trial_store, before, 1.0, owner=before)
    (found,) = trial_store.recover([entry])
    assert (found.claim, found.owner) == (None, None)
    assert trial_store.view(found).repaid_epochs == 1.0


def test_an_end_that_was_not_told_is_told(trial_store: TrialStore) -> None:
    entry = trial_store.write(ended(begun(trial_store, 1.0), Outcome.COMPLETED, 1.0))
    (found,) = trial_store.recover([entry])
    assert found.closed
    assert trial_store.study.best_value == 1.0


def test_a_trial_without_a_record_is_ended(trial_store: TrialStore) -> None:
    trial_store.study.ask()
    assert trial_store.trials() == []
    (trial,) = trial_store.study.trials
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs["outcome"] == Outcome.INTERRUPTED.value


def test_what_other_hands_have_ended_is_ended(trial_store: TrialStore) -> None:
    entry = begun(trial_store, 1.0)
    trial_store.storage.set_trial_state_values(trial_store.trial_id(entry.number), TrialState.FAIL)
    (found,) = trial_store.trials()
    assert found.record.outcome is Outcome.FAILED
    assert "outside" in found.record.why
    assert trial_store.recover([found]) == [found]


def test_enqueued_trials_are_counted(trial_store: TrialStore) -> None:
    trial_store.study.enqueue_trial({"lr": 0.5})
    assert trial_store.trials() == []
    assert trial_store.waiting == 1


# -- how they died ----------------------------------------------------------------------------------------


def watched(trial_store: TrialStore, lease: Lease, **how: bool) -> TrialStore:
    """The same store, which knows of a death."""
    death = Death(pid=lease.pid, started=lease.started, why="killed by SIGKILL", **how)
    return dataclasses.replace(trial_store, deaths=[*trial_store.deaths, death])


def test_one_death_may_be_anothers_fault_and_two_are_not(trial_store: TrialStore) -> None:
    first = dead_lease()
    entry = claimed_by(trial_store, first, 1.0)
    (once,) = watched(trial_store, first).recover([entry])
    assert (once.deaths, once.record.outcome, once.claim) == (1, None, None)
    second = dead_lease()
    entry = trial_store.write(dataclasses.replace(once, claim=Claim(until=5.0, lease=second)))
    (twice,) = watched(trial_store, second).recover([entry])
    assert twice.record.outcome is Outcome.FAILED
    assert twice.record.why == "killed by SIGKILL"
    assert twice.closed


@pytest.mark.parametrize(("how", "outcome"), [({"stalled": True}, Outcome.STALLED), ({"exited": True}, Outcome.FAILED)])
def test_a_stall_and_an_exit_are_the_trials_own(
    trial_store: TrialStore, how: dict[str, bool], outcome: Outcome
) -> None:
    lease = dead_lease()
    (found,) = watched(trial_store, lease, **how).recover([claimed_by(trial_store, lease, 1.0)])
    assert found.record.outcome is outcome
    assert trial_store.study.trials[0].state is TrialState.FAIL


def test_the_death_of_another_process_says_nothing(trial_store: TrialStore) -> None:
    entry = claimed_by(trial_store, dead_lease(), 1.0)
    (found,) = watched(trial_store, dead_lease(), stalled=True).recover([entry])
    assert (found.record.outcome, found.deaths) == (None, 0)


def test_the_record_is_one_attribute(trial_store: TrialStore) -> None:
    begun(trial_store, 1.0, math.inf)
    assert trial_store.study.trials[0].user_attrs[RECORD]["curve"]["values"]["valid_loss"] == [1.0, "inf"]
