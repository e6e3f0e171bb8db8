"""The lines for runs of transformers, Keras, Lightning and skorch, as text; tests/hosts runs them in the packages."""

from __future__ import annotations

import ast
import copy
from typing import TYPE_CHECKING, Any

import pytest

import lrtune
from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIMIZER = {
    "optimizer": {"name": "AdamW", "module": "torch.optim"},
    "options": {"weight_decay": 0.1},
    "unread": ["hidden"],
    "groups": [{"ratio": 0.5, "parameters": ["net."], "options": {"weight_decay": 0.0}}],
    "two_points": False,
    "scaled": False,
    "changes_lr": False,
}
SETUPS: dict[str, dict[str, Any]] = {
    "transformers": {
        "library": "transformers",
        "trainer": {"name": "Seq2SeqTrainer", "module": "transformers"},
        "own_optimizer": True,
        "arguments": {"optim": "adamw_torch", "optim_args": None, "bf16": False, "max_grad_norm": 0.0},
        "optimizers": [OPTIMIZER],
        "steps": 10,
    },
    "keras": {
        "library": "keras",
        "optimizer": {"name": "Own", "module": "mine"},
        "options": {"nesterov": True, "clipnorm": None, "use_ema": False, "ema_momentum": 0.9},
        "arrays": True,
        "batch_size": 16,
        "steps": 10,
    },
    "lightning": {
        "library": "lightning",
        "optimizers": [OPTIMIZER],
        "trainer": {"gradient_clip_val": 0.5, "precision": "bf16-mixed"},
        "objects": ["callbacks"],
        "steps": 10,
    },
    "sklearn": {
        "library": "sklearn",
        "rate": "lr",
        "module": {"name": "Net", "module": "mine"},
        "settings": {"optimizer__momentum": 0.9, "device": "cpu"},
        "pipeline": True,
        "only_step": False,
        "batch_size": 16,
        "hears": "valid_loss",
        "steps": 10,
    },
}
HOSTILE = 'x\'"""\n); import os; os.remove("a")  #'


def recipe(spec: str) -> lrtune.Recipe:
    return lrtune.Recipe(lr=0.03, epochs=2, schedule=spec)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where strings stand in a setup, the keys of dicts included (``"key"`` and the key at the end)."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))
            if isinstance(value, dict) and path:
                yield (*path, "key", key)


def replaced(setup: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(setup)
    key = len(path) > 1 and path[-2] == "key"
    inner: Any = changed
    for step in path[: -2 if key else -1]:
        inner = inner[step]
    if key:
        inner[HOSTILE] = inner.pop(path[-1])
    else:
        inner[path[-1]] = HOSTILE
    return changed


@pytest.mark.parametrize("host", SETUPS)
@pytest.mark.parametrize("spec", ["constant", "cosine", "onecycle"])
def test_no_text_of_a_storage_becomes_a_statement(host: Any, spec: str) -> None:
    written = 0
    for path in places(SETUPS[host]):
        try:
            code = lrtune.snippet(recipe(spec), host, setup=replaced(SETUPS[host], path))
        except InputError:
            continue
        written += 1
        names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
        assert "os" not in names, path
    assert written or host == "keras"


def test_what_each_says() -> None:
    code = {host: lrtune.snippet(recipe("onecycle"), host, setup=SETUPS[host]) for host in SETUPS}  # type: ignore[arg-type]
    assert "from transformers import Seq2SeqTrainer\n" in code["transformers"]
    assert "class ScheduledTrainer(Seq2SeqTrainer):" in code["transformers"]
    assert "max_grad_norm=0.0," in code["transformers"], "zero is no clipping; left out it would be the default"
    assert "# optimizers=(optimizer, None): yours, AdamW, weight_decay=0.1" in code["transformers"]
    assert "optimizer = Own(lr, nesterov=True)" in code["keras"]
    assert "batches = range(0, len(x), 16)" in code["keras"]
    assert "precision='bf16-mixed'," in code["lightning"]
    assert "# and as you gave them: callbacks" in code["lightning"]
    assert "{\"params\": named('net.'), \"lr\": 0.5 * lr, 'weight_decay': 0.0}" in code["lightning"]
    assert "optimizer__momentum=0.9," in code["sklearn"]
    assert "# model.fit(steps.fit_transform(X, y), y); on the rows to train on" in code["sklearn"]


def test_a_constant_rate_needs_no_callback() -> None:
    code = lrtune.snippet(recipe("constant"), "sklearn", setup=SETUPS["sklearn"])
    assert "Callback" not in code
    assert "class " not in lrtune.snippet(recipe("constant"), "transformers", setup=SETUPS["transformers"])


@pytest.mark.parametrize("host", SETUPS)
def test_a_damaged_setup_is_said(host: Any) -> None:
    with pytest.raises(InputError, match="the stored setup of the run is damaged"):
        lrtune.snippet(recipe("cosine"), host, setup={"library": host, **({"module": 1} if host == "sklearn" else {})})
