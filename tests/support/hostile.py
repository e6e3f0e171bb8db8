"""A study in which every text that a user gives is the worst there is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lrtune.core.curve import Curve

if TYPE_CHECKING:
    from lrtune.core.records import StudyRecord

__all__ = ["hostile"]


HOSTILE = '</title></script><script>alert("1")</script><img src=http://x.example onerror=alert(1)>&\x1b]0;x\x07\ud800'


def hostile(record: StudyRecord, text: str = HOSTILE) -> StudyRecord:
    """The same study with every text that a user gives, or an error carries, replaced by the worst."""
    records = [
        dataclasses.replace(
            trial,
            why=text,
            segments=tuple(dataclasses.replace(p, worker=text, why=text) for p in trial.segments),
            curve=Curve(
                dataclasses.replace(p, values={text: p.values["valid_loss"], "train_loss": p.values["train_loss"]})
                for p in trial.curve
            ),
        )
        for trial in record.records
    ]
    result = {**record.result, "stopped_because": text, "warnings": [text], text: text}
    return dataclasses.replace(
        record,
        name=text,
        metric=text,
        strategy=text,
        records=tuple(records),
        notices=(text,),
        environment={text: text},
        result=result,
    )
