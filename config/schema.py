"""The JSON Schema of the configuration file, for editors that complete and check as you type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tta_dev_primitives.config.options import ConfigFile

SCHEMA_PATH = Path(__file__).with_name("orchestration-config.schema.json")
"""The committed schema; `python -m tta_dev_primitives.config.schema` writes it anew."""


def json_schema() -> dict[str, Any]:
    """The schema, made from the options' own types, ranges and descriptions."""
    schema = ConfigFile.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "TTA orchestration configuration",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def json_schema_text() -> str:
    """The schema as the committed file holds it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_text(json_schema_text(), encoding="utf-8")
