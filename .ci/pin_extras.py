"""Give each `name==version` that some package wants as `name[extra]` a second line with that extra.

Up to pip 23.2 (what Python 3.11 puts into a new environment) `name==version` does not pin `name[extra]`: as soon as a
newer `name` is on the index, an installation with hashes fails. The plain line stays for those who want no extra.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from pathlib import Path


def wanted_extras() -> dict[str, set[str]]:
    """The extras that installed packages always want of others, by name."""
    found: dict[str, set[str]] = {}
    for package in distributions():
        for line in package.requires or ():
            match = re.match(r"([\w.-]+)\[([\w.,\s-]+)\]", line)
            if match and not re.search(r"\bextra\s*==", line):
                extras = ",".join(sorted(part.strip() for part in match[2].split(",")))
                found.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), set()).add(extras)
    return found


def pinned(text: str) -> str:
    """The requirements `text` with the lines that are missing."""
    for name, kinds in sorted(wanted_extras().items()):
        block = re.search(rf"^{re.escape(name)}(==.*\n(?: .*\n)*)", text, re.MULTILINE)
        for extras in sorted(kinds) if block else ():
            if f"\n{name}[{extras}]==" not in text:
                text = text.replace(f"\n{block[0]}", f"\n{name}[{extras}]{block[1]}{block[0]}", 1)
    return text


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(pinned(path.read_text()))
