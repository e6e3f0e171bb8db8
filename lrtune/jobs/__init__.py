"""Scheduled jobs: a study searched again in each period of a schedule, under a lock, resumed after an interruption.

=======================  ==========================================================================================
`job_file`               the job file
`schedule`, `cron`       when it is due: periods of a cron expression or of a fixed length, all in UTC
`request`, `runner`      one run: how it is called, its lock (one at a time), and all that it does
`state`, `status`        what is stored between runs, and how a job is shown
`drift`                  whether the last learning rate is still right: a pure function of a few short trainings
`drift_strategy`         the strategy of a run: the drift test first, the full search only when it is needed
`publish`, `hook`        what is done with the answer
`retention`              what is deleted of old runs
`scheduler_templates`    systemd, cron and Kubernetes
`server`                 several jobs on APScheduler
=======================  ==========================================================================================

:func:`lrtune.jobs.runner.run` runs a job once; :mod:`lrtune.cli.job` is the command.
"""

from __future__ import annotations

from lrtune.jobs.job_file import JobFile, read_job

__all__ = ["JobFile", "read_job"]
