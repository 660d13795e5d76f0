"""Texts of models that are built to keep a process busy: each reader's time grows with the length, not its square."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from tta_dev_primitives.blocks.redaction import mask_keys, redact, register_secret
from tta_dev_primitives.blocks.wire.thoughts import split_thoughts
from tta_dev_primitives.flows.answers.closed_answers import FORMATS, final_answer
from tta_dev_primitives.flows.answers.strict_json import one_value
from tta_dev_primitives.flows.bulk.csv_output import cell
from tta_dev_primitives.flows.jobs.findings import inert, read_findings
from tta_dev_primitives.flows.jobs.modules import code_in, page_in
from tta_dev_primitives.flows.planning.local_classifier import answer_format, classify
from tta_dev_primitives.flows.reporting.quoted_answer import quoted_pages, table_cell
from tta_dev_primitives.flows.validation.copied_verdict import is_copied
from tta_dev_primitives.flows.validation.prompt_quoting import without_markers

PARTS = (
    *(
        "1",
        "0a",
        " ",
        "\n",
        "\r",
        "<",
        "< ",
        "|-",
        "| ",
        "-",
        "~",
        "`",
        "``a`",
        "```\n",
        "x```a\ny",
        "```python\n",
    ),
    *(
        "\\",
        "](",
        "![](",
        '{"a":',
        "{",
        '"',
        '"a',
        "<think>",
        "<|start|> ",
        '<|channel|>x""',
        "<a>",
        "# ",
        "- ",
        ":1",
    ),
    *(
        "answer: ",
        "#### ",
        "=1;",
        "a@",
        "www.",
        "%25",
        "&#x",
        "[x]",
        "＜",
        "ａ",
        "Zm9vYmFy",
        "deadbeef",
        ". ",
    ),
)
READERS: dict[str, Callable[[str], Any]] = {
    "mask_keys": mask_keys, "redact": redact, "split_thoughts": split_thoughts, "cell": cell, "inert": inert,
    "findings": lambda text: read_findings(text, SimpleNamespace(path="a.py")), "code_in": code_in,  # type: ignore[arg-type]
    "page_in": page_in, "classify": classify, "answer_format": answer_format, "quoted_pages": quoted_pages,
    "table_cell": table_cell, "without_markers": without_markers, "one_value": one_value,
    **{f"final {form}": lambda text, form=form: final_answer(text, form) for form in FORMATS},  # type: ignore[misc]
    "is_copied": lambda text: is_copied(Decimal("0.95"), "because", text),
}  # fmt: skip
ENDS = (("", "!"), ("|", "x"), ("<|channel|>final<|start|>", " x"))


@pytest.mark.parametrize("name", READERS)
def test_no_text_keeps_a_process_busy(name: str) -> None:
    """Once, 390,000 line breaks stopped a run for more than ten minutes, and it could not be interrupted."""
    register_secret("gsk-canary-0123456789")
    slow = {}
    dear = name == "is_copied"
    for part in PARTS if not dear else ("1", "\\", "Zm9vYmFy", "deadbeef"):
        for begin, end in ENDS[:1] if dear else ENDS:
            text = f"{begin}{part * (20_000 // len(part))}{end}"
            began = time.thread_time()
            with suppress(ValueError):  # a refusal that was quick is as good as an answer
                READERS[name](text)
            if (took := time.thread_time() - began) > (5 if dear else 0.8):
                slow[begin, part, end] = round(took, 1)
    assert not slow
