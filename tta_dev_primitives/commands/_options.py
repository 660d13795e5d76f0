"""Options that many commands share, each with its line of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Config = Annotated[
    Path | None,
    Parameter(
        name=["--config", "-c"], help="The configuration file; otherwise the usual places are searched."
    ),
]
Flag = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(negative="", help="Print one JSON document.")]
