"""Fixtures that every test file may ask for."""

from __future__ import annotations

from postgres_server import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]
