"""``python -m tonnage``."""

from __future__ import annotations

import sys

from tonnage.cli import main

sys.exit(main())
