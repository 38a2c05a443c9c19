"""Placeholder."""

from __future__ import annotations

from icecore.engines.postgresql.session import LocalSession


class StreamSession(LocalSession):
    ordered = True
