"""Verdicts in words: what one curve shows, and what a whole study shows; pure functions on recorded numbers."""

from __future__ import annotations

from lrtune.diagnosis.curves import Verdict, VerdictKind, judge
from lrtune.diagnosis.findings import Finding, FindingKind, Trial
from lrtune.diagnosis.studies import judge_study

__all__ = ["Finding", "FindingKind", "Trial", "Verdict", "VerdictKind", "judge", "judge_study"]
