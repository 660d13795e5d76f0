"""The address of a database: a text whose password shows in no repr, and so in no traceback with local variables."""

from __future__ import annotations

import re

_HIDDEN = "[hidden]"


class HiddenUrl(str):
    """A text like any other, but for its repr; a part of it hides itself as well."""

    __slots__ = ()

    def __repr__(self) -> str:
        scheme, separator, _ = self.partition("://")
        return (
            str.__repr__(self) if scheme == "sqlite" else f"'{scheme}://{_HIDDEN}'" if separator else _HIDDEN
        )

    def __getitem__(self, part: object) -> HiddenUrl:
        return HiddenUrl(super().__getitem__(part))  # type: ignore[index]

    @property
    def place(self) -> str:
        """Scheme, host and database, without user, password and options."""
        return re.sub(r"(?<=://).*@|\?.*", "", self, flags=re.DOTALL)
