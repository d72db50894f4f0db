"""The libraries themselves: where torch or transformers is missing, nothing of this folder is collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") and find_spec("transformers") else ["*.py"]
