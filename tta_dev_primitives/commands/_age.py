"""An age as people write it: `12h`, `30d`, `8w`."""

from __future__ import annotations

import re

from tta_dev_primitives.config.errors import ConfigError

_AGE = re.compile(r"(\d{1,6})\s*([hdw])")
_SECONDS = {"h": 3_600, "d": 86_400, "w": 604_800}


def seconds_of(text: str, option: str) -> int:
    """The seconds of an age that was given as `option`.

    Raises:
        ConfigError: It is not a number with h, d or w.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{option} {text!r}: expected a number with h, d or w, such as 30d.")
    return int(found[1]) * _SECONDS[found[2]]
