"""Plain technical English: words that the glossary bans stand nowhere in the product or its pages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("config", "blocks", "flows", "deployments", "tta_dev_primitives", "docs")
KINDS = {".py", ".md", ".yaml", ".yml", ".j2", ".json"}
BANNED = re.compile(r"\b(purse|mend(?:s|ed|ing)?|nobody|whoever|disown\w*|tells|told)\b", re.I)


def test_no_banned_word_is_used() -> None:
    """Each of them has a plain word in CONTRIBUTING's glossary."""
    files = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in KINDS and p.is_file()]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "mkdocs.yml"]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if BANNED.search(line)
    ]
    assert found == []
