"""Schemas as providers with constrained decoding take them."""

from __future__ import annotations

from tta_dev_primitives.blocks.wire.structured import strict_schema


def test_a_schema_that_cannot_be_closed_is_left_to_words() -> None:
    """Recursion and open objects have no constrained form."""
    assert strict_schema({"type": "object"}) is None
    assert strict_schema({"type": "object", "properties": {"a": {"$ref": "#"}}}) is None
    assert strict_schema({"oneOf": [{"type": "string"}]}) == {"anyOf": [{"type": "string"}]}
    assert strict_schema({"type": "array", "items": {"type": "object"}}) is None
    optional = {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]}
    assert strict_schema(optional) == {"anyOf": [{"type": "string"}, {"type": "null"}]}
