"""How the commands that train networks end: the record on standard output, or the error and exit code 1."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping

from pi_compiler.errors import PiError

__all__ = ["exit_code"]

_log = logging.getLogger(__name__)


def exit_code(work: Callable[[], Mapping[str, object]]) -> int:
    """Does the work, logs the record that it returns as JSON; 1 and the error's text where it raises PiError."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        record = work()
    except PiError as error:
        _log.error("%s: %s", type(error).__name__, error)
        return 1
    _log.info("%s", json.dumps(record, indent=2))
    return 0
