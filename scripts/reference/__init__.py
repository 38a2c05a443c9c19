"""The API reference as static pages: ``PYTHONPATH=scripts python -m reference`` (``make docs``)."""
