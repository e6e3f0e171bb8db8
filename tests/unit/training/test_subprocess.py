"""Runs in processes of their own: the contract of every trainer, deaths, what comes back, and what comes through."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from estimator_contract import PipelineContract
from generators import GENERATOR_RECIPES, descend
from networks import RECIPES, bowl_trainer, make, mlp
from trainer_contract import BowlContract, NotSavingContract, SavingContract, TrainerContract, train

import lrtune
from lrtune.core.recipe import Recipe
from lrtune.core.tracebacks import users_own
from lrtune.errors import InputError, RecipeError, SearchError, UserCodeError
from lrtune.training.generator import GeneratorTrainer
from lrtune.training.subprocess.trainer import Isolated, isolating
from lrtune.workers.process import DiedError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lrtune.training.base import Run, Trainer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forked")
ONE = Recipe(lr=0.1, epochs=3)


class TestTorch(SavingContract, BowlContract, TrainerContract):
    recipes: ClassVar = RECIPES

    def trainer(self) -> Trainer:
        return Isolated(make())

    def bowl(self) -> tuple[Trainer, float]:
        trainer, curvature = bowl_trainer()
        return Isolated(trainer), curvature


class TestSklearn(PipelineContract):
    def trainer(self) -> Trainer:  # type: ignore[override]
        return Isolated(super().trainer())

    def bowl(self) -> tuple[Trainer, float]:  # type: ignore[override]
        trainer, curvature = super().bowl()
        return Isolated(trainer), curvature


class TestGenerator(NotSavingContract, BowlContract, TrainerContract):
    recipes: ClassVar = GENERATOR_RECIPES

    def trainer(self) -> Trainer:
        return Isolated(GeneratorTrainer(descend))

    def bowl(self) -> tuple[Trainer, float]:
        return Isolated(GeneratorTrainer(descend)), 10.0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def made() -> Iterator[Callable[..., Run]]:
    """Starts a run of a generator function; closes it after the test."""
    with contextlib.ExitStack() as stack:

        def start(function: Callable[[Recipe], Any], *, stall: float | None = None, recipe: Recipe = ONE) -> Run:
            trainer = stack.enter_context(isolating(GeneratorTrainer(function), wanted=True, stall_timeout=stall))
            return trainer.start([recipe])

        yield start


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 -- a zombie counts as gone
            return file.read().rpartition(")")[2].split()[0] in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition: Callable[[], object], seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


# -- results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", [make, PipelineContract().trainer, lambda: descend])
def test_a_search_finds_the_same_bit_for_bit(trainer: Callable[[], Any]) -> None:
    def found(*, isolate: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        result = lrtune.tune(trainer(), {"lr": (1e-3, 1.0)}, epochs=4, budget=1.5, seed=1, isolate=isolate)
        assert any(len(trial.user_attrs["lrtune:record"]["pieces"]) > 1 for trial in result.study.trials)
        records = [dict(trial.user_attrs["lrtune:record"]) for trial in result.study.trials]
        for record in records:
            assert record["curve"]
            record["pieces"] = [piece[2:4] for piece in record["pieces"]]  # without hours and names
        timeless = [{k: v for k, v in record.items() if k not in {"started", "finished"}} for record in records]
        return result.to_json(), timeless

    assert found(isolate=True) == found(isolate=False)


def test_the_parent_never_runs_the_training_code(made: Callable[..., Run]) -> None:
    parent = os.getpid()

    def function(_recipe: Recipe) -> Iterator[float]:
        while True:
            yield float(os.getpid())

    one, two = made(function), made(function)
    pids = [run.advance(1)[0].point.values["valid_loss"] for run in (one, two)]
    assert parent not in pids
    assert pids[0] != pids[1]
    assert one.advance(1)[0].point.values["valid_loss"] == pids[0], "the process lives as long as the run"


def test_even_what_is_asked_of_the_trainer_itself_is_asked_elsewhere() -> None:
    class Curious(GeneratorTrainer):
        def fingerprint(self) -> dict[str, str]:
            return {"pid": str(os.getpid())}

        def steps_per_epoch(self, recipe: Recipe, /) -> int:  # noqa: ARG002
            return os.getpid()

    with isolating(Curious(descend), wanted=True) as trainer:
        asked = {int(trainer.fingerprint()["pid"]), trainer.steps_per_epoch(ONE)}
    assert os.getpid() not in asked
    assert len(asked) == 1, "a process is used for all that is asked before its run"


def test_notices_come_through() -> None:
    with isolating(make(), wanted=True) as trainer:
        trainer.start([Recipe(lr=0.1, batch_size=1000)]).close()
        assert any("a batch size of 1000 is more than the data has" in notice for notice in trainer.notices)


def test_what_is_printed_there_is_not_lost(capfd: pytest.CaptureFixture[str], made: Callable[..., Run]) -> None:
    def function(_recipe: Recipe) -> Iterator[float]:
        sys.stdout.write("a line of the user's")
        yield 1.0
        os.kill(os.getpid(), signal.SIGKILL)

    run = made(function)
    run.advance(1)
    with pytest.raises(DiedError):
        run.advance(1)
    assert "a line of the user's" in capfd.readouterr().out


# -- how it ends ------------------------------------------------------------------------------------------


def leaves(_recipe: Recipe) -> Iterator[float]:
    yield 1.0
    os._exit(9)


def killed(_recipe: Recipe) -> Iterator[float]:
    yield 1.0
    os.kill(os.getpid(), signal.SIGKILL)


def crashes(_recipe: Recipe) -> Iterator[float]:
    yield 1.0
    faulthandler.disable()  # pytest's: it would say much
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(_recipe: Recipe) -> Iterator[float]:
    yield 1.0
    time.sleep(3600)


def holds(_recipe: Recipe) -> Iterator[float]:
    yield 1.0
    sum(range(10**15))  # one C call: no signal but the last cuts it short


@pytest.mark.parametrize(
    ("function", "stall", "why", "kind"),
    [
        (leaves, None, "the training code ended the process (exit code 9)", (False, True)),
        (killed, None, "killed by SIGKILL", (False, False)),
        (crashes, None, "killed by SIGSEGV", (False, False)),
        (hangs, 0.5, "no progress for 0.5 s", (True, False)),
        (holds, 0.5, "no progress for 0.5 s", (True, False)),
    ],
)
def test_a_process_that_dies_says_how(
    made: Callable[..., Run], function: Any, stall: float | None, why: str, kind: tuple[bool, bool]
) -> None:
    run: Any = made(function)
    run.advance(1)
    run._child._stall = stall  # from here on: however long the first step took on a busy machine
    with pytest.raises(DiedError) as caught:
        run.advance(1)
    death = caught.value.death
    assert (death.why, (death.stalled, death.exited)) == (why, kind)
    assert run.alive == ()
    assert run.advance(1) == []
    assert run.state() is None
    run.drop([0])
    run.suspend()
    run.close()
    assert gone(death.pid)


def test_a_run_whose_process_is_gone_is_not_restored() -> None:
    run = Isolated(make()).start([ONE])
    state = run.state()
    assert state is not None
    run.close()
    with pytest.raises(InputError, match="start the run again"):
        run.restore(state)


def modes(*how: Callable[[Recipe], Iterator[float]], folder: Path) -> Callable[[Recipe], Iterator[float]]:
    """The first run trains as the first function does, and so on; a run that is tried again counts anew."""

    def function(recipe: Recipe) -> Iterator[float]:
        number = len(list(folder.iterdir()))
        (folder / str(number)).touch()
        return how[min(number, len(how) - 1)](recipe)

    return function


def fine(recipe: Recipe) -> Iterator[float]:
    for epoch in range(recipe.epochs):
        yield abs(np.log(recipe.lr)) + 1 / (epoch + 1)


def test_every_death_is_its_trials_alone(tmp_path: Path) -> None:
    function = modes(leaves, fine, killed, fine, killed, killed, hangs, fine, folder=tmp_path)
    result = lrtune.tune(
        function, {"lr": (1e-3, 1.0)}, epochs=3, trials=6, strategy="random", isolate=True, stall_timeout=15.0
    )
    assert result.study is not None
    ended = [trial.user_attrs["lrtune:record"] for trial in result.study.trials]
    assert [record["outcome"] for record in ended] == [
        *("failed", "completed", "completed", "failed", "stalled", "completed")
    ]
    assert [record["deaths"] for record in ended] == [1, 0, 1, 2, 1, 0]
    assert ended[0]["why"] == "the training code ended the process (exit code 9)"
    assert ended[0]["trained"] == 1
    assert ended[3]["why"] == "killed by SIGKILL"
    assert ended[4]["why"] == "no progress for 15 s"
    assert len(list(tmp_path.iterdir())) == 8, "a kill is tried once more, everything else not"


def test_a_killed_process_of_a_trainer_that_saves_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def deadly(recipe: Recipe) -> Any:
        if (tmp_path / "armed").exists() and not (tmp_path / "fired").exists():
            (tmp_path / "fired").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return mlp(recipe)

    def found(*, armed: bool) -> Any:
        trainer = make(model=deadly)
        options: dict[str, Any] = {"epochs": 4, "budget": 2.0, "isolate": True}

        def observe(progress: Any) -> None:
            if armed and progress.spent > 0.3:
                (tmp_path / "armed").touch()

        return lrtune.tune(trainer, {"lr": (1e-3, 1.0)}, observer=observe, **options)

    calm, shot = found(armed=False), found(armed=True)
    assert (tmp_path / "fired").exists()
    assert shot.to_json() == calm.to_json()


# -- what the training code raises ------------------------------------------------------------------------


def raises(kind: type[BaseException], *arguments: Any) -> Callable[[Recipe], Iterator[float]]:
    def function(_recipe: Recipe) -> Iterator[float]:
        yield 1.0
        raise kind(*arguments)

    return function


class OwnError(Exception):
    """One that cannot be pickled."""

    def __init__(self, one: int, two: Any) -> None:
        super().__init__(f"{one} went wrong")
        self.two = two


def test_the_users_own_exception_comes_with_its_own_traceback(made: Callable[..., Run]) -> None:
    function = raises(OwnError, 3, lambda: None)
    here = GeneratorTrainer(function).start([ONE])
    here.advance(1)
    try:
        here.advance(1)
    except OwnError as error:
        trace = error.__traceback__
        expected = users_own(error.with_traceback(trace.tb_next if trace else None))
    there = made(function)
    there.advance(1)
    with pytest.raises(RemoteError, match="OwnError: 3 went wrong") as caught:
        there.advance(1)
    assert caught.value.user_traceback == expected
    assert "in function" in expected
    assert there.alive == ()


class Mute(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_that_cannot_speak_is_no_ones_death(made: Callable[..., Run]) -> None:
    run = made(raises(Mute))
    run.advance(1)
    with pytest.raises(RemoteError, match="Mute: <exception str"):
        run.advance(1)


def test_a_chain_of_exceptions_comes_through_whole(made: Callable[..., Run]) -> None:
    def function(_recipe: Recipe) -> Iterator[float]:
        yield 1.0
        try:
            {}["the first"]
        except KeyError as error:
            msg = "the second"
            raise RuntimeError(msg) from error

    run = made(function)
    run.advance(1)
    with pytest.raises(RemoteError, match="RuntimeError: the second") as caught:
        run.advance(1)
    assert "KeyError: 'the first'" in caught.value.user_traceback


@pytest.mark.parametrize("error", [InputError("not like this"), RecipeError("nor that"), KeyboardInterrupt("by hand")])
def test_what_lrtune_knows_comes_as_it_was(made: Callable[..., Run], error: BaseException) -> None:
    run = made(raises(type(error), *error.args))
    run.advance(1)
    with pytest.raises(type(error)) as caught:
        run.advance(1)
    assert str(caught.value) == str(error)


class Refusing(GeneratorTrainer):
    """Raises when a run is started."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(descend)
        self.error = error

    def start(self, recipes: Any, /) -> Any:  # noqa: ARG002
        raise self.error


@pytest.mark.parametrize("code", [3, None, "a sentence"])
def test_an_exit_when_a_run_is_started_is_its_trials(code: Any) -> None:
    with isolating(Refusing(SystemExit(code)), wanted=True) as trainer, pytest.raises(SystemExit) as caught:
        trainer.start([ONE])
    assert caught.value.code == code


def test_memory_that_runs_out_when_a_run_is_started_is_its_trials() -> None:
    with isolating(Refusing(MemoryError("all of it")), wanted=True) as trainer:
        with pytest.raises(MemoryError, match="all of it"):
            trainer.start([ONE])
        with pytest.raises(MemoryError, match="all of it"):
            trainer.start([ONE])


def test_notes_of_an_error_are_kept() -> None:
    error = InputError("bad")
    error.add_note("look at line 3")
    with isolating(Refusing(error), wanted=True) as trainer, pytest.raises(InputError) as caught:
        trainer.start([ONE])
    assert caught.value.__notes__ == ["look at line 3"]


def test_the_first_trials_error_is_the_users_to_mend() -> None:
    with pytest.raises(UserCodeError, match=r"failed in its first trial \(ValueError: no such layer") as caught:
        lrtune.tune(raises_at_once, {"lr": (1e-3, 1.0)}, epochs=3, trials=3, isolate=True)
    assert "in raises_at_once" in caught.value.user_traceback
    assert "child.py" not in caught.value.user_traceback


def raises_at_once(_recipe: Recipe) -> Iterator[float]:
    msg = "no such layer"
    raise ValueError(msg)
    yield 1.0


class Nameless(GeneratorTrainer):
    """Fails before there is a trial."""

    how: ClassVar[Callable[[], Any]]

    def fingerprint(self) -> dict[str, str]:
        type(self).how()
        return {}


class Leaving(Nameless):
    how = staticmethod(lambda: os._exit(4))


class Stumbling(Nameless):
    how = staticmethod(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("kind", "said"), [(Leaving, r"outside of any trial .*exit code 4"), (Stumbling, "outside of any .*ZeroDivision")]
)
def test_what_fails_before_any_trial_ends_the_search_with_a_sentence(kind: type[Nameless], said: str) -> None:
    with pytest.raises(SearchError, match=said):
        lrtune.tune(kind(descend), {"lr": (1e-3, 1.0)}, epochs=3, trials=3, isolate=True)


def test_ctrl_c_while_it_trains_ends_the_process(made: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = made(hangs)
    run.advance(1)
    pid = run._child._process.pid

    def interrupted(_seconds: float = 0) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(run._child._pipe, "poll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.advance(1)
    assert gone(pid)
    assert run.state() is None, "nobody knows where it stands: what is on disk is gone on with"


# -- what comes back --------------------------------------------------------------------------------------

LEAKING = """
import gc, json, os, sys
import lrtune

KEPT = []

def train(recipe):
    KEPT.append(bytearray(os.urandom(1) * 50_000_000))
    KEPT.extend(open(os.devnull) for _ in range(20))
    for epoch in range(recipe.epochs):
        yield recipe.lr / (epoch + 1)

def held():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))

seen = []
def observe(progress):
    if progress.event:
        seen.append(held())

lrtune.tune(train, {"lr": (1e-3, 1.0)}, epochs=2, trials=9, strategy="random", observer=observe,
            isolate=sys.argv[1] == "isolate")
print(json.dumps([seen[1], seen[-1]]))
"""


@pytest.mark.parametrize("how", ["isolate", "not"])
def test_memory_and_handles_come_back(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEAKING, how], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    (memory_before, files_before), (memory_after, files_after) = json.loads(done.stdout)
    if how == "isolate":
        assert memory_after - memory_before < 50, "less than one of seven leaks, in MB"
        assert files_after == files_before
    else:  # the leaks are real
        assert memory_after - memory_before > 300
        assert files_after - files_before > 100


def spawns(recipe: Recipe) -> Iterator[float]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    for _ in range(recipe.epochs):
        yield float(child.pid)


def forks(recipe: Recipe) -> Iterator[float]:
    child = os.fork()  # holds the pipe to the parent, as a data loader's worker may
    if not child:
        time.sleep(3600)
    for _ in range(recipe.epochs):
        yield float(child)


@pytest.mark.parametrize("function", [spawns, forks])
@pytest.mark.parametrize("end", ["closed", "forgotten", "killed", "left"])
def test_what_it_leaves_behind_goes_with_it(made: Callable[..., Run], function: Any, end: str) -> None:
    run: Any = made(function) if end != "forgotten" else Isolated(GeneratorTrainer(function)).start([ONE])
    left = int(run.advance(1)[0].point.values["valid_loss"])
    assert not gone(left)
    if end == "closed":
        run.close()
    elif end == "killed":
        os.kill(run._child._process.pid, signal.SIGKILL)
        with pytest.raises(DiedError, match="SIGKILL"):
            run.advance(1)
    elif end == "left":
        with isolating(run._trainer, wanted=True):
            run._trainer.close()
    del run
    gc.collect()
    until(lambda: gone(left))


def test_closing_a_run_lets_the_training_code_clean_up(made: Callable[..., Run], tmp_path: Path) -> None:
    def function(_recipe: Recipe) -> Iterator[float]:
        try:
            yield 1.0
        finally:
            (tmp_path / "cleaned").touch()

    run = made(function)
    run.advance(1)
    run.close()
    assert (tmp_path / "cleaned").exists()


def test_runs_that_can_be_saved_keep_no_process_while_they_are_paused() -> None:
    def living(*, trainer: Any) -> int:
        most = [0]

        def observe(progress: Any) -> None:
            if progress.event and not progress.training:
                children = [int(pid) for pid in children_of(os.getpid()).split()]
                most[0] = max(most[0], sum(not gone(pid) for pid in children) - before)

        before = len(children_of(os.getpid()).split())
        lrtune.tune(trainer, {"lr": (1e-3, 1.0)}, epochs=4, budget=2.0, isolate=True, observer=observe)
        return most[0]

    assert living(trainer=make()) <= 1, "the one of the next run may wait"
    assert living(trainer=descend) > 1, "a generator lives in its process"


def children_of(pid: int) -> str:
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123 -- not a file
        return file.read()


PARENT = """
import os, sys, time
from lrtune.core.recipe import Recipe
from lrtune.core.tracebacks import users_own
from lrtune.training.subprocess.trainer import Isolated
from lrtune.training.generator import GeneratorTrainer

def train(recipe):
    for _ in range(10):
        yield float(os.getpid())

run = Isolated(GeneratorTrainer(train)).start([Recipe(lr=0.1, epochs=10)])
print(int(run.advance(1)[0].point.values["valid_loss"]), flush=True)
if sys.argv[1] == "waits":
    time.sleep(3600)
"""


@pytest.mark.parametrize("how", ["waits", "ends"])
def test_it_does_not_outlive_its_parent(how: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        if how == "waits":
            assert not gone(child)
            parent.kill()
        assert parent.wait(250) == (0 if how == "ends" else -signal.SIGKILL)
    until(lambda: gone(child))


# -- when a process may be forked -------------------------------------------------------------------------

THREADS = """
import sys, torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
import lrtune

torch.set_num_threads(3)
x = torch.randn(4000, 200, generator=torch.Generator().manual_seed(0))
y = (x[:, 0] > 0).long()

def search(isolate):
    trainer = lrtune.TorchTrainer(
        model=lambda: nn.Sequential(nn.Linear(200, 400), nn.ReLU(), nn.Linear(400, 2)),
        train_data=(x, y), valid_data=(x, y), batch_size=2000, device="cpu",
    )
    return lrtune.tune(trainer, {"lr": (1e-3, 1.0)}, epochs=2, trials=2, strategy="random", isolate=isolate).to_json()

here = search(False)  # backward and all: every thread of PyTorch's is there now
KNeighborsClassifier(n_jobs=None).fit(x.numpy(), y.numpy()).predict(x.numpy()[:300])  # and of scikit-learn's
assert search(True) == here
assert torch.get_num_threads() == 3
print("equal")
"""


def test_a_process_that_has_used_its_threads_can_be_forked() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", THREADS], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.stdout == "equal\n", done.stderr


AHEAD = """
import sys, torch
from lrtune.core.recipe import Recipe
from lrtune.core.tracebacks import users_own
from lrtune.training.subprocess.trainer import Isolated
from lrtune.training.generator import GeneratorTrainer

def train(recipe):
    before = set(sys.modules)
    weight = torch.nn.Parameter(torch.zeros(3))
    torch.optim.SGD([weight], lr=0.1).zero_grad()
    yield float(len(set(sys.modules) - before))

run = Isolated(GeneratorTrainer(train)).start([Recipe(lr=0.1)])
print(int(run.advance(1)[0].point.values["valid_loss"]))
"""


def test_what_an_optimizer_needs_is_loaded_before_the_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AHEAD], capture_output=True, text=True, timeout=280, check=False
    )
    assert int(done.stdout) < 20, done.stderr


def test_where_nothing_can_be_forked_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(InputError, match="isolate needs to fork"):
        lrtune.tune(descend, {"lr": (1e-3, 1.0)}, epochs=3, trials=3, isolate=True)


def test_a_process_that_uses_a_gpu_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(InputError, match="already uses CUDA"):
        lrtune.tune(descend, {"lr": (1e-3, 1.0)}, epochs=3, trials=3, isolate=True)


def test_a_daemonic_process_may_have_no_children() -> None:
    def body(pipe: Any) -> None:
        try:
            Isolated(GeneratorTrainer(descend))
        except InputError as error:
            pipe.send(str(error))

    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=body, args=(theirs,), daemon=True)
    process.start()
    assert ours.poll(250)
    assert "daemonic" in ours.recv()
    process.join()
    process.close()
    ours.close()
    theirs.close()


def test_runs_equal_those_of_the_trainer_itself() -> None:
    assert train(Isolated(make()).start(RECIPES)) == train(make().start(RECIPES))
