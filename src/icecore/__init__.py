"""Icecore: self-hosted snapshot backup for database clusters behind the PolarDB OpenAPI."""

__version__ = "0.1.0"
