"""Options declared once: a dataclass field carries its kind, its bounds, its unit and its help.

A dataclass with fields made by :func:`option` is a schema, and :func:`options` lists what it declares. Three readers
work from the list: :func:`check` refuses a wrong argument of a Python call, :meth:`lrtune.config.toml.TomlTable.option`
reads a key of a file, and :func:`lrtune.cli.options.add_command` makes options of the command line.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any

from lrtune.errors import InputError

__all__ = ["Option", "check", "option", "options"]

METADATA = "option"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option.

    Attributes
    ----------
    kind
        ``int``, ``float``, ``bool`` or ``str``; ``list`` for texts.
    name
        Of the field, the key in a file, and the option of the command line unless `declared` has another.
    table
        The table of a study file that holds it; empty where a study file does not.
    low, high
        Bounds of a number; `above` and `below` exclude them.
    unit
        Of a number, e.g. ``"seconds"``.
    choices
        The words that a text may be; empty for any text.
    allowed
        What a message says a text must be.
    switch
        Whether files and the command line also take true, for the default, and false, for `low`.
    help
        What ``--help`` says; without it there is no such option on the command line.
    declared, metavar
        How the command line writes it, where that does not follow from the name.
    """

    kind: type
    name: str = ""
    table: str = "search"
    low: float = 0
    high: float = 0
    above: bool = False
    below: bool = False
    unit: str = ""
    choices: tuple[str, ...] = ()
    allowed: str = "a text in quotes"
    switch: bool = False
    help: str = ""
    declared: str = ""
    metavar: str | None = None

    @property
    def shown(self) -> str:
        """``"--stall-timeout"``: its name on the command line."""
        return self.declared.partition("/")[0] or f"--{self.name.replace('_', '-')}"

    def accepts(self, value: Any) -> bool:
        """Whether the value is of its kind and within its bounds."""
        if self.kind is list:
            return isinstance(value, list | tuple) and all(isinstance(part, str) and part for part in value)
        if self.kind is str:
            return isinstance(value, str) and bool(value) and (not self.choices or value in self.choices)
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if not isinstance(value, int if self.kind is int else int | float):
            return False
        inside = self.low < value < self.high  # false for NaN
        return inside or (not self.above and value == self.low) or (not self.below and value == self.high)

    def sentence(self) -> str:
        """What a value in a file must be: ``"a whole number from 1 to 256"``."""
        if self.kind is int:
            return f"a whole number from {self.low} to {self.high}"
        if self.kind is float:
            below = "below" if self.below else "at most"
            return f"a number {'above' if self.above else 'of at least'} {self.low:g} and {below} {self.high:g}"
        if self.kind is bool:
            return "true or false"
        return " or ".join(f'"{choice}"' for choice in self.choices) or self.allowed


def option(kind: type, default: Any = MISSING, *, factory: Any = MISSING, **more: Any) -> Any:
    """A dataclass field for an option; `more` are attributes of :class:`Option`."""
    made: Any = field(default=default, metadata={METADATA: Option(kind=kind, **more)})
    made.default_factory = factory
    return made


def options(schema: Any) -> dict[str, Option]:
    """The options of a dataclass by name, in the order of its fields, those of a dataclass within it included."""
    found: dict[str, Option] = {}
    for spec in fields(schema):
        inner: Any = spec.default_factory
        if METADATA in spec.metadata:
            found[spec.name] = replace(spec.metadata[METADATA], name=spec.name)
        elif is_dataclass(inner):
            found |= options(inner)
    return found


def check(made: Any) -> None:
    """Refuse a number or a flag of a dataclass that is not accepted; None is accepted where it is the default.

    Raises
    ------
    InputError
        Names the option, its unit, its bounds and the value.
    """
    for spec in fields(made):
        option: Option | None = spec.metadata.get(METADATA)
        value = getattr(made, spec.name)
        if option is None or option.kind not in {int, float, bool} or option.accepts(value):
            continue
        if value is not None or spec.default is not None:
            needed = option.sentence()
            if option.kind is not bool:
                kind = "whole number" if option.kind is int else "number"
                low = "above" if option.above else "of at least"
                unit = f" of {option.unit}" if option.unit else ""
                needed = f"a {kind}{unit}, {low} {option.low:g} and at most {option.high:g}"
            msg = f"{spec.name} must be {needed} (got {value!r})"
            raise InputError(msg)
