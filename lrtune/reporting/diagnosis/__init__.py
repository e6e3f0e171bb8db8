"""Diagnosis in sentences: what one curve shows (overfitting, spikes, divergence), and what a whole study shows."""

from __future__ import annotations

from lrtune.reporting.diagnosis.curve_verdict import judge, verdicts
from lrtune.reporting.diagnosis.findings import Finding, FindingKind, VerdictKind
from lrtune.reporting.diagnosis.study_verdict import findings

__all__ = ["Finding", "FindingKind", "VerdictKind", "findings", "judge", "verdicts"]
