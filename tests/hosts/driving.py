"""The learning rate of every update, as the real packages set it from lrtune's pasted lines: one function a host."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, TensorDataset

if TYPE_CHECKING:
    from collections.abc import Callable

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

__all__ = ["DRIVERS", "PACKAGES", "ready"]

PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "lightning": "lightning",
    "keras": "keras",
    "optax": "optax",
    "timm": "timm",
    "accelerate": "accelerate",
    "ignite": "pytorch-ignite",
    "fastai": "fastai",
    "paddle": "paddlepaddle",
    "mmengine": "mmengine",
    "deepspeed": "deepspeed",
    "sklearn": "scikit-learn",
}
"""Each host's package."""

MODULES = {"fastai": "fastai.callback.schedule", "deepspeed": "deepspeed.runtime.lr_schedules"}


def ready(host: str) -> None:
    """Import the host's package; ImportError where it is not there.

    The schedulers of timm do without torchvision, the rest of it does not: where that cannot be imported they are
    found without running ``timm/__init__.py``.
    """
    if host == "timm" and "timm" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        found = importlib.util.find_spec("timm")
        if found is None:
            raise ModuleNotFoundError(host)
        package = types.ModuleType("timm")
        package.__path__ = list(found.submodule_search_locations or ())
        sys.modules["timm"] = package
        importlib.import_module("timm.scheduler")
    importlib.import_module(MODULES.get(host, {"sklearn": "sklearn"}.get(host, host)))


def _model() -> torch.nn.Module:
    return torch.nn.Linear(1, 1)


def _pasted(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, "pasted", "exec"), names)  # noqa: S102 -- what a person pastes
    return names


def _loader(steps: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(steps, 1), torch.zeros(steps, 1)), batch_size=1)


def _lr(optimizer: Any) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _stepped(names: dict[str, Any], steps: int) -> list[float]:
    """A loop of one's own."""
    optimizer, scheduler, rates = names["optimizer"], names.get("scheduler"), []
    for update in range(steps):
        rates.append(_lr(optimizer))
        optimizer.step()
        if hasattr(scheduler, "step_update"):
            scheduler.step_update(update + 1)
        elif scheduler is not None:
            scheduler.step()
    return rates


def _torch(code: str, steps: int, peak: float) -> list[float]:
    del peak
    return _stepped(_pasted(code, model=_model(), train_loader=range(steps)), steps)


def _transformers(code: str, steps: int, peak: float) -> list[float]:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=peak)
    return _stepped(_pasted(code, model=model, train_loader=range(steps), optimizer=optimizer), steps)


def _lightning(code: str, steps: int, peak: float) -> list[float]:
    import lightning

    del peak
    rates = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _model()

        def training_step(self, batch: Any) -> torch.Tensor:
            rates.append(_lr(self.optimizers()))
            return self.inner(batch[0]).mean()

    Module.configure_optimizers = _pasted(code)["configure_optimizers"]
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
        enable_model_summary=False,
    )
    trainer.fit(Module(), _loader(steps))
    return rates


def _keras(code: str, steps: int, peak: float) -> list[float]:
    import keras
    import numpy as np

    del peak

    class Data(keras.utils.PyDataset):
        def __len__(self) -> int:
            return steps

        def __getitem__(self, _: int) -> tuple[Any, Any]:
            return np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32")

    class Seen(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            del batch, logs
            rates.append(float(self.model.optimizer.learning_rate))

    rates: list[float] = []
    data = Data()
    names = _pasted(code, train_data=data)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(names["optimizer"], "mse")
    own = [names["LearningRate"]()] if "LearningRate" in names else []
    model.fit(data, callbacks=[*own, Seen()], verbose=0, shuffle=False)
    return rates


def _optax(code: str, steps: int, peak: float) -> list[float]:
    """What the optimizer multiplies a gradient of one by; without momentum the update is minus the rate."""
    import jax
    import jax.numpy as jnp

    del peak
    optimizer = _pasted(code, train_loader=range(steps))["optimizer"]
    weight = jnp.zeros(())

    def one(state: Any, _: Any) -> tuple[Any, Any]:
        update, state = optimizer.update(jnp.ones(()), state, weight)
        return state, -update

    return [float(rate) for rate in jax.lax.scan(one, optimizer.init(weight), None, length=steps)[1]]


def _accelerate(code: str, steps: int, peak: float) -> list[float]:
    del peak
    names = _pasted(code, model=_model(), train_loader=_loader(steps))
    rates, optimizer = [], names["optimizer"]
    for batch in names["train_loader"]:
        rates.append(_lr(optimizer))
        names["accelerator"].backward(names["model"](batch[0]).mean())
        optimizer.step()
        if "scheduler" in names:
            names["scheduler"].step()
        optimizer.zero_grad()
    return rates


def _ignite(code: str, steps: int, peak: float) -> list[float]:
    from ignite.engine import Engine

    del peak
    rates, names = [], {}
    trainer = Engine(lambda _engine, _batch: rates.append(_lr(names["optimizer"])))
    names |= _pasted(code, model=_model(), train_loader=range(steps), trainer=trainer)
    trainer.run(range(steps), max_epochs=1)
    return rates


def _fastai(code: str, steps: int, peak: float) -> list[float]:
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    class Seen(Callback):
        order = 100

        def before_batch(self) -> None:
            if self.training:
                rates.append(float(self.opt.hypers[0]["lr"]))

    rates: list[float] = []
    names = _pasted(code, train_loader=range(steps))
    dls = DataLoaders(_loader(steps), _loader(1), device="cpu")
    learner = Learner(dls, _model(), loss_func=torch.nn.functional.mse_loss, opt_func=names["opt_func"])
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, peak, cbs=[names["callback"], Seen()])
    return rates


def _paddle(code: str, steps: int, peak: float) -> list[float]:
    import paddle

    del peak
    names = _pasted(code, model=paddle.nn.Linear(1, 1), train_loader=range(steps))
    rates = []
    for _ in range(steps):
        rates.append(float(names["optimizer"].get_lr()))
        if hasattr(names["scheduler"], "step"):
            names["scheduler"].step()
    return rates


def _mmengine(code: str, steps: int, peak: float) -> list[float]:
    from mmengine.hooks import Hook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    del peak

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _model()

        def forward(self, x: Any, mode: str = "loss") -> dict[str, Any]:
            del mode
            return {"loss": self.inner(x).mean()}

    class Seen(Hook):
        priority = "LOWEST"

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            del batch_idx, data_batch
            rates.append(_lr(runner.optim_wrapper))

    rates: list[float] = []
    names = _pasted(code, train_loader=range(steps))
    runner = Runner(
        Model(),
        work_dir=os.environ["LRTUNE_HOSTS_FOLDER"],
        train_dataloader=DataLoader([(torch.zeros(1),)] * steps, batch_size=1),
        optim_wrapper=names["optim_wrapper"],
        param_scheduler=names.get("param_scheduler") or None,
        train_cfg=names["train_cfg"],
        custom_hooks=[*names.get("custom_hooks", []), Seen()],
        default_hooks={"logger": None, "checkpoint": None, "timer": None, "sampler_seed": None, "runtime_info": None},
        experiment_name=f"run_{id(names)}",
        log_level="ERROR",
    )
    runner.train()
    return rates


def _deepspeed(code: str, steps: int, peak: float, *, alone: bool = False) -> list[float]:
    """With the function, or the scheduler of the JSON alone; stepped after every update, as the engine does."""
    import json

    from deepspeed.runtime import lr_schedules

    del peak
    names = _pasted(code, model=_model(), train_loader=range(steps))
    config = json.loads(json.dumps(names["config"]))
    options = dict(config["optimizer"]["params"])
    optimizer = getattr(torch.optim, config["optimizer"]["type"])(_model().parameters(), **options)
    scheduler = None
    if alone:
        section = json.loads(json.dumps(names["json_scheduler"]))
        scheduler = getattr(lr_schedules, section["type"])(optimizer, **section["params"])
    elif "schedule" in names:
        scheduler = names["schedule"](optimizer)
    return _stepped({"optimizer": optimizer, "scheduler": scheduler}, steps)


def _sklearn(code: str, steps: int, peak: float) -> list[float]:
    import numpy as np
    from sklearn.linear_model import SGDClassifier

    model, rates = SGDClassifier(), []
    names = _pasted(code, model=model, batches=range(steps))
    if "learn" not in names:
        return [float(model.eta0)] * steps
    del peak
    for step in range(steps):
        names["learn"](step, np.array([[0.0], [1.0]]), np.array([0, 1]), classes=[0, 1])
        rates.append(float(model.eta0))
    return rates


DRIVERS: dict[str, Callable[..., list[float]]] = {
    "torch": _torch,
    "transformers": _transformers,
    "lightning": _lightning,
    "keras": _keras,
    "optax": _optax,
    "timm": _torch,
    "accelerate": _accelerate,
    "ignite": _ignite,
    "fastai": _fastai,
    "paddle": _paddle,
    "mmengine": _mmengine,
    "deepspeed": _deepspeed,
    "sklearn": _sklearn,
}
"""The function that trains with a host's pasted lines, for so many updates."""
