"""No test asks a network: the Hub that tests ask is a stand-in on the loopback, which undoes this."""

from __future__ import annotations

import os
import tempfile

# Before anything imports huggingface_hub, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HOME"] = os.path.join(tempfile.gettempdir(), "tonnage-tests-without-a-cache")
os.environ.pop("HF_TOKEN", None)
