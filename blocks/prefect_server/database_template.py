"""An empty, already migrated Prefect database: the first start copies it instead of running ~100 migrations.

One is shipped for the oldest and one for the newest Prefect that is allowed. The newest that is not newer than the
installed Prefect is taken, and Prefect's own migrations do the rest, if there is any.
`python tests/support/prefect_template.py` makes the one of the installed version.
"""

from __future__ import annotations

import gzip
import os
from importlib.metadata import version
from pathlib import Path

from tta_dev_primitives.blocks.prefect_server.server_settings import release_of

_FOLDER = Path(__file__).resolve().parent
_NAMES = "prefect-*.sqlite.gz"


def shipped_template() -> Path | None:
    """The packaged template that the installed Prefect can take; None when all are newer."""
    installed = release_of(version("prefect"))
    found = {
        release_of(path.name[len("prefect-") : -len(".sqlite.gz")]): path for path in _FOLDER.glob(_NAMES)
    }
    fitting = [made_by for made_by in found if made_by <= installed]
    return found[max(fitting)] if fitting else None


def install_template(database: Path) -> bool:
    """Create `database` from the template, mode 0600; False when it exists or no template fits.

    The file appears whole or not at all, so a crash in between is followed by an ordinary first start.
    """
    source = shipped_template()
    if source is None or database.exists():
        return False
    try:
        data = gzip.decompress(source.read_bytes())
    except (OSError, EOFError):
        return False
    part = database.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    part.rename(database)
    return True
