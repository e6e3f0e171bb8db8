"""PostgreSQL under many workers: fresh, restarted, away, cut off, full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults.checker import SECRET, check, load
from faults.driver import until
from postgres_server import PASSWORD, PostgresServer, find_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.driver import Lab

pytestmark = [pytest.mark.faults, pytest.mark.postgres, pytest.mark.timeout(900)]
many = pytest.mark.slow
CUT = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'lrtune'"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that these tests may stop."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs (initdb, pg_ctl) are not installed")
    pytest.importorskip("psycopg")
    assert PASSWORD == SECRET
    made = PostgresServer(programs)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def pg(lab: Lab, server: PostgresServer) -> Lab:
    """A lab whose storage is a fresh database; its URL is read from a file."""
    lab.storage = server.new_database()
    (lab.folder / "secret").write_text(lab.storage)
    words = lab.words

    def told(*more: str, file: str = "study.toml") -> list[str]:
        made = words(*more, file=file)
        made[made.index("--storage") + 1] = f"@{lab.folder / 'secret'}"
        return made

    lab.words = told  # type: ignore[method-assign]  # the storage by its secret file
    return lab


@pytest.mark.row(29)
@pytest.mark.parametrize("starts", [3, pytest.param(8, marks=many)])
def test_starts_at_once_on_a_fresh_database(pg: Lab, saw: Callable[..., None], starts: int) -> None:
    pg.study(search={"trials": starts})
    calls = [pg.start("--out", f"out{number}", "--json-log", f"log{number}") for number in range(starts)]
    for call in calls:
        assert call.wait() == 0, call.err
    check(pg, trials=starts, result=False)
    saw(f"{starts} starts: all exit 0, {starts} of {starts} trials")


@pytest.mark.row(31, 33)
@pytest.mark.parametrize(
    ("mode", "workers", "trials"),
    [
        ("fast", 2, 8),
        ("immediate", 2, 8),
        pytest.param("fast", 8, 40, marks=many),
        pytest.param("immediate", 8, 40, marks=many),
    ],
)
def test_a_restart_in_the_middle(  # noqa: PLR0917 -- a row of a table
    pg: Lab, server: PostgresServer, saw: Callable[..., None], mode: str, workers: int, trials: int
) -> None:
    pg.study(search={"trials": trials})
    running = pg.start("--workers", str(workers), sleep=0.08, hold=trials * 5)
    pg.trained(trials * 3)
    server.stop(mode)
    pg.go()
    pg.stuck()
    server.start()
    assert running.wait() == 0, running.err
    assert "storage back after" in running.err
    assert "worker died" not in running.err
    study = check(pg, trials=trials)
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)
    assert len({trial.params["lr"] for trial in study.trials}) == trials
    saw(f"{mode}, {workers} workers: exit 0, {trials} of {trials} complete, each once, all learning rates distinct")


@pytest.mark.row(34)
def test_away_for_longer_than_it_is_waited_for(pg: Lab, server: PostgresServer, saw: Callable[..., None]) -> None:
    running = pg.start("--storage-retry", "2", sleep=0.05, hold=24)
    pg.trained(20)
    server.stop("fast")
    pg.go()
    try:
        assert running.wait() == 4, running.err
    finally:
        server.start()
    assert "cannot be reached" in running.last
    assert pg.log.read_text().count("completed") >= 1
    pg.run()
    check(pg, trials=6)
    saw(f"exit 4, {running.last.partition('error: ')[2]!r}; the next start: exit 0, 6 of 6")


@pytest.mark.row(35)
def test_a_wrong_password(pg: Lab, server: PostgresServer, saw: Callable[..., None]) -> None:
    (pg.folder / "secret").write_text(server.url(password="not-" + PASSWORD))
    running = pg.run(expect=4)
    assert f"127.0.0.1:{server.port}" in running.last
    assert PASSWORD not in running.err + running.out
    saw(f"exit 4, {running.last.partition('error: ')[2]!r}")


@pytest.mark.row(36)
def test_a_cut_connection(pg: Lab, server: PostgresServer, saw: Callable[..., None]) -> None:
    running = pg.start(sleep=0.15, hold=30)
    cut = 0
    for wanted in (12, 22):
        pg.trained(wanted)
        cut += len(server.sql(CUT))
    pg.go()
    assert running.wait() == 0, running.err
    check(pg, trials=6)
    assert cut
    saw(f"{cut} connections cut: exit 0, 6 of 6")


@many
@pytest.mark.row(37)
def test_no_connection_slots_left(pg: Lab, saw: Callable[..., None]) -> None:
    programs = find_programs()
    assert programs is not None
    small = PostgresServer(programs, options="-c max_connections=6 -c superuser_reserved_connections=0")
    try:
        pg.storage = small.url()
        (pg.folder / "secret").write_text(pg.storage)
        pg.study(search={"trials": 16})
        running = pg.start("--workers", "8", "--storage-retry", "60", sleep=0.05)
        code = running.wait()
        assert code in (0, 4), running.err
        if code:
            pg.run()
        until(lambda: len(load(pg.storage).trials) == 16, "all trials")
        check(pg, trials=16)
    finally:
        small.close()
    saw(f"6 slots for 8 workers: exit {code}, 16 of 16")
