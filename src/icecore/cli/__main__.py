"""``python -m icecore.cli``, for where the entry point is not on the path."""

import sys

from icecore.cli import main

sys.exit(main())
