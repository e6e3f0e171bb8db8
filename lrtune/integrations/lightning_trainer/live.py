"""One ``Trainer.fit`` in a thread of its own, which waits whenever its data loader is asked for a batch too many.

The thread and its run take turns: one waits while the other works, so that the process's random generators belong to
who works. Where the loader is asked for a batch everything of the step before is done, hooks and epoch ends included;
what is measured or saved there is measured and saved by the thread itself, within ``fit``. The batches come from
lrtune, by epoch and position, so that a run resumed in the middle of an epoch goes on with the ones that are due.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.training.base import State

__all__ = ["NEVER", "Abandoned", "Batches", "LiveFit", "callback_of", "quiet"]

T = TypeVar("T")
NEVER = 10**9  # epochs between two evaluations of Lightning's own
LOGGERS = tuple(f"lightning.{part}.utilities.rank_zero" for part in ("pytorch", "fabric"))
SEVERAL = "configure_optimizers must return one optimizer (got {}); lrtune sets the learning rate of one"


class Abandoned(Exception):  # noqa: N818 -- no error: the run has been given up
    """Raised within ``fit`` to end it."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's tips and its word that it has stopped, which it says for every run."""
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True  # another level would clear the caches of all loggers, which takes a millisecond
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of PyTorch about Lightning 2.6
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


class Batches:
    """The train loader that ``fit`` reads: an epoch at a time, from the position at which the run stands."""

    def __init__(self, live: LiveFit, count: int) -> None:
        self._live, self._count = live, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        epoch, position = divmod(self._live.taken, self._count)
        for index in range(position, self._count):
            self._live.wait_for_target()
            self._live.taken += 1
            yield self._live.batch_at(epoch, index)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position is the run's. Lightning asks whether the loader can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class LiveFit:
    """A ``fit`` in progress.

    Parameters
    ----------
    module, trainer
        A fresh module, and a fresh Trainer with :func:`callback_of` among its callbacks.
    valid
        What Lightning takes as the held-out part, or None.
    batch_at
        ``(epoch, position)`` to a batch.
    per_epoch, total
        Batches of an epoch, and of the run.
    stepped
        Called after each batch with its loss; an exception ends the run.
    rate
        The learning rate of the next batch.
    """

    def __init__(
        self,
        module: Any,
        trainer: Any,
        valid: Any,
        *,
        batch_at: Callable[[int, int], Any],
        per_epoch: int,
        total: int,
        stepped: Callable[[float], None],
        rate: Callable[[], float],
    ) -> None:
        self.module, self.trainer = module, trainer
        self.batch_at, self.stepped, self.rate = batch_at, stepped, rate
        self.taken = self.target = 0
        self._total = total
        self.replaced: list[str] = []
        self._saved: State | None = None
        self._valid, self._batches = valid, Batches(self, per_epoch)
        self._orders: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._given_up = self._ended = False

    # -- the run's side ---------------------------------------------------------------------------------------

    def begin(self, saved: State | None = None) -> None:
        """Set up and go on to the first batch that is due; with a state, that of another ``fit``."""
        if saved is not None:
            from lrtune.training.networks.nested import decoded

            self._saved, self.taken = saved, int(saved["taken"])
            self.target = self.taken
            self.trainer.fit_loop.load_state_dict(decoded(saved["loops"]))
        self._thread = threading.Thread(target=self._fit, name="lrtune-fit", daemon=True)
        self._thread.start()
        self._answer()

    def train_to(self, target: int) -> None:
        """Train on batches up to that number, counted over epochs."""
        self.target = target
        self._orders.put(None)
        self._answer()

    def ask(self, function: Callable[[], T]) -> T:
        """What a function returns within ``fit``."""
        self._orders.put(function)
        found: T = self._answer()
        return found

    def end(self) -> None:
        """Give the run up."""
        thread, self._thread = self._thread, None
        if thread is None or not thread.is_alive():
            return
        self._given_up = True
        self._orders.put(None)
        thread.join()

    def _answer(self) -> Any:
        found, error = self._answers.get()
        if error is not None:
            thread, self._thread = self._thread, None
            if thread is not None and self._ended:
                thread.join()
            raise error
        return found

    # -- the thread's side ------------------------------------------------------------------------------------

    def _fit(self) -> None:
        error: BaseException | None = None
        try:
            self.trainer.fit(self.module, self._batches, self._valid)
        except Abandoned:
            return
        except BaseException as raised:  # noqa: BLE001 -- it is raised again by whoever waits
            error = raised
        self._ended = True
        if isinstance(error, RuntimeError) and "multiple optimizers" in str(error):
            error = InputError(SEVERAL.format(len(self.trainer.optimizers) or "several"))
        if error is not None and not self._given_up:
            self._answers.put((None, error))

    def wait_for_target(self) -> None:
        """Wait where the target has been reached, and do what is asked meanwhile."""
        if self.taken < self.target:
            return
        self._answers.put((None, None))
        while True:
            order = self._orders.get()
            if self._given_up:
                raise Abandoned
            if order is None:
                return
            try:
                self._answers.put((order(), None))
            except Exception as error:  # noqa: BLE001 -- likewise
                self._answers.put((None, error))

    def set_up(self) -> None:
        """Before the first batch: one optimizer, no scheduler, and what was saved."""
        from lrtune.training.networks.optimizer_setup import optimizer_setup
        from lrtune.training.networks.optimizers import RATIO

        trainer = self.trainer
        if trainer.world_size > 1:
            msg = f"LightningTrainer trains on one device (got {trainer.world_size}); leave devices and strategy out"
            raise InputError(msg)
        if len(trainer.optimizers) != 1:
            raise InputError(SEVERAL.format(len(trainer.optimizers)))
        self.replaced = [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs]
        trainer.lr_scheduler_configs.clear()
        optimizer = trainer.optimizers[0]
        base = optimizer.defaults.get("lr") or 1.0
        for group in optimizer.param_groups:
            group[RATIO] = group.get("initial_lr", group["lr"]) / base
        self.optimizers = optimizer_setup(self.module, optimizer)
        if self._saved is not None:
            self._load(self._saved)
            self._saved = None

    def set_rate(self) -> None:
        """The learning rate of the next batch; groups keep their ratios."""
        from lrtune.training.networks.optimizers import apply_lr

        apply_lr(self.trainer.optimizers[0], self.rate())

    def finish(self) -> None:
        """After the last epoch: wait, so that the trained model can be measured and saved."""
        if self.taken < self._total:
            msg = (
                f"Trainer.fit ended after {self.taken} of {self._total} batches; leave out what stops it, such as "
                "EarlyStopping or max_time"
            )
            raise InputError(msg)
        self.target = -1
        with contextlib.suppress(Abandoned):
            self.wait_for_target()

    def evaluate(self) -> dict[str, float]:
        """What the held-out part's steps log, within ``fit``, as Lightning's own evaluation does it."""
        trainer = self.trainer
        connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop.val_loop  # noqa: SLF001 -- no public way
        first = connector._first_loop_iter  # noqa: SLF001 -- likewise
        trainer.validating = True
        try:
            found = loop.run()
        finally:
            trainer.training = True
            connector._first_loop_iter = first  # noqa: SLF001 -- likewise
        return {name: float(value) for logged in found for name, value in logged.items()}

    def state(self) -> State:
        """What :meth:`begin` takes; TypeError where a callback or an optimizer holds what cannot be saved."""
        from lrtune.training.networks.nested import encoded
        from lrtune.training.networks.optimizer_state import save_optimizer

        hook: dict[str, Any] = {}
        self.module.on_save_checkpoint(hook)
        return {
            "taken": self.taken,
            "loops": encoded(self.trainer.fit_loop.state_dict()),
            "module": {name: encoded(tensor) for name, tensor in _tensors(self.module).items()},
            "optimizer": save_optimizer(self.trainer.optimizers[0]),
            "precision": encoded(self.trainer.precision_plugin.state_dict()),
            "callbacks": [encoded(callback.state_dict()) for callback in self.trainer.callbacks],
            "hook": encoded(hook),
        }

    def _load(self, saved: State) -> None:
        import torch

        from lrtune.training.networks.nested import decoded
        from lrtune.training.networks.optimizer_state import load_optimizer

        tensors = _tensors(self.module)
        values = {name: decoded(item) for name, item in saved["module"].items()}
        if {name: value.shape for name, value in values.items()} != {n: t.shape for n, t in tensors.items()}:
            msg = "the state is of another module: its tensors have other names or shapes; start the run again"
            raise InputError(msg)
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(values[name])
        load_optimizer(self.trainer.optimizers[0], saved["optimizer"])
        self.trainer.precision_plugin.load_state_dict(decoded(saved["precision"]))
        for callback, item in zip(self.trainer.callbacks, saved["callbacks"], strict=True):
            callback.load_state_dict(decoded(item))
        self.module.on_load_checkpoint(decoded(saved["hook"]))


def _tensors(module: Any) -> dict[str, Any]:
    """Parameters and buffers by name, those included that a state dict leaves out."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def callback_of(live: list[LiveFit], accumulate: int) -> Any:
    """The callback by which a ``fit`` tells its :class:`LiveFit`, the only one in the list once it is made."""
    from lightning.pytorch.callbacks import Callback

    class Steps(Callback):  # type: ignore[misc]  # where Lightning is not installed it has no types
        """Sets the learning rate before each batch and reports its loss after it."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            del trainer, pl_module
            live[0].set_up()

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            del trainer, pl_module, batch, batch_idx
            live[0].set_rate()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            del trainer, pl_module, batch, batch_idx
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            live[0].stepped(float("nan") if loss is None else float(loss) * accumulate)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            del trainer, pl_module
            live[0].finish()

    return Steps()
