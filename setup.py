"""Everything but the optional C extension stands in pyproject.toml; without a compiler the package works as well."""

from setuptools import setup

setup(cffi_modules=["src/icecore/engines/postgresql/_pagecheck_build.py:ffi"])
