"""Tuning jobs by the clock: one run for a scheduler, locked, resumable, cheaper as it goes.

The family, a file an idea::

    file       the job file as frozen data
    cron, clock    when it is due: periods of a cron expression or of a fixed length, all in UTC
    lock       one run at a time, by a lock that the kernel frees
    state      what outlives a run: 0600, atomic, times in UTC
    drift      is last time's learning rate still right: a pure function of a few short trainings
    recheck    the strategy of a run: the drift test first, the full search only when it is needed
    asked, running    one run: how it is asked for, and all of it from the lock to the published answer
    publish, hook  what is done with the answer
    retention  what is deleted, and only what the job made
    units      systemd, cron and Kubernetes
    serving    several jobs on APScheduler
    history    the learning rate over time

:func:`lrtune.jobs.runner.run` is the way in; :mod:`lrtune.cli.job` is the command.
"""

from __future__ import annotations

from lrtune.jobs.job_file import JobFile, read_job

__all__ = ["JobFile", "read_job"]
