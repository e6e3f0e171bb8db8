"""Verdicts in words: what one curve shows, and what a whole study shows; pure functions on recorded numbers."""

from __future__ import annotations

from lrtune.reporting.diagnosis.curve_verdict import Verdict, VerdictKind, judge
from lrtune.reporting.diagnosis.findings import Finding, FindingKind, Trial
from lrtune.reporting.diagnosis.study_findings import judge_study

__all__ = ["Finding", "FindingKind", "Trial", "Verdict", "VerdictKind", "judge", "judge_study"]
