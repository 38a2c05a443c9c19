"""Writes ``build/reference`` and ``docs/openapi.json``.

Everything comes from the contract, the error tree, the signing code, and the exchanges recorded by
``tests/live/test_reference.py``: nothing on these pages is typed in twice.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from icecore.api import openapi
from reference import exchanges, site

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "vectors" / "reference"
PAGES = ROOT / "build" / "reference"
DOCUMENT = ROOT / "docs" / "openapi.json"


def main() -> None:
    # The document for other tools: committed, and part of the site
    document = json.dumps(openapi.document(), indent=1, ensure_ascii=False) + "\n"
    DOCUMENT.write_text(document, encoding="utf-8")

    # The pages, all made before the first is written
    pages = site.pages(exchanges.read(RECORDED))
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for name, text in {**pages, "openapi.json": document}.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(pages)} files in {PAGES}; {DOCUMENT}\n")


if __name__ == "__main__":
    main()
