"""Some fields of a typed answer, asked for again: the cut schema, and the whole object with the new values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_dev_primitives.flows.answers.fields import cut_schema, with_field
from tta_dev_primitives.flows.answers.output_type import InvalidAnswerError, OutputType


@dataclass(frozen=True)
class Part:
    """The fields that are asked for, and the object that they go into. Make it with `of`."""

    fields: tuple[str, ...]
    base: Mapping[str, Any]
    cut: OutputType
    """The type of the part alone."""
    output: OutputType
    """The type of the whole."""

    @classmethod
    def of(cls, output: OutputType, fields: Sequence[str], base: str) -> Part:
        """The part of a typed answer at `fields`."""
        return cls(
            tuple(fields), output.read(base).data, OutputType(cut_schema(output.schema, fields)), output
        )

    def whole(self, text: str) -> dict[str, Any]:
        """The object with the values that a reply gives for the fields; of a whole object only these count.

        Raises:
            InvalidAnswerError: The reply is neither data of the cut schema nor a whole object.
        """
        try:
            found = self.cut.read(text).data
        except InvalidAnswerError as error:
            try:
                found = self.output.read(text).data
            except InvalidAnswerError:
                raise error from None
        whole = dict(self.base)
        for path in self.fields:
            whole = with_field(whole, path, found)
        return whole
