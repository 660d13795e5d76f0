"""The ledger's tables. All amounts are integer pico-USD, all moments seconds since 1970."""

from __future__ import annotations

from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.money import MAX_PICO

register_schema(
    "ledger",
    1,
    [
        # The one row that every paid call of a month goes through.
        f"""CREATE TABLE ledger_month (
            scope TEXT NOT NULL, month TEXT NOT NULL,
            spent INTEGER NOT NULL CHECK (spent BETWEEN 0 AND {MAX_PICO}),
            held INTEGER NOT NULL CHECK (held BETWEEN 0 AND {MAX_PICO}),
            approved INTEGER NOT NULL CHECK (approved BETWEEN 0 AND {MAX_PICO}),
            PRIMARY KEY (scope, month)) STRICT /* hot */""",
        f"""CREATE TABLE ledger_call (
            id TEXT PRIMARY KEY, scope TEXT NOT NULL, month TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('held', 'settled', 'released', 'presumed')),
            billing TEXT NOT NULL CHECK (billing IN ('paid', 'free')),
            bound INTEGER NOT NULL CHECK (bound BETWEEN 0 AND {MAX_PICO}),
            charged INTEGER NOT NULL CHECK (charged BETWEEN 0 AND {MAX_PICO}),
            limit_seen INTEGER, provider TEXT NOT NULL, model TEXT NOT NULL, model_key TEXT NOT NULL,
            role TEXT NOT NULL, use_case TEXT, step_key TEXT, flow_run_id TEXT, task_run_id TEXT,
            attempt INTEGER NOT NULL, owner TEXT NOT NULL, outcome TEXT, status INTEGER, request_id TEXT,
            input_tokens INTEGER, output_tokens INTEGER, list_value INTEGER, baseline INTEGER,
            usage_json TEXT, flag TEXT, note TEXT,
            created_at REAL NOT NULL, lease_until REAL NOT NULL, closed_at REAL) STRICT""",
        "CREATE INDEX ledger_call_lease ON ledger_call (scope, lease_until) WHERE state = 'held'",
        "CREATE INDEX ledger_call_presumed ON ledger_call (scope, month) WHERE state = 'presumed'",
        "CREATE INDEX ledger_call_month ON ledger_call (scope, month)",
        "CREATE INDEX ledger_call_step ON ledger_call (step_key) WHERE step_key IS NOT NULL",
        # Append-only: the sums of a month's entries equal its row. No index and no counter table: it is written
        # with every hold and read by people only.
        """CREATE TABLE ledger_event (
            seq INTEGER PRIMARY KEY /* counted */, scope TEXT NOT NULL, month TEXT NOT NULL, call_id TEXT,
            what TEXT NOT NULL, d_spent INTEGER NOT NULL, d_held INTEGER NOT NULL,
            d_approved INTEGER NOT NULL,
            who TEXT, note TEXT, at REAL NOT NULL) STRICT""",
        # An outbox: written by the transaction that crosses the line, sent afterwards.
        """CREATE TABLE ledger_alert (
            scope TEXT NOT NULL, month TEXT NOT NULL, threshold_bp INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('due', 'sending', 'sent')),
            spent INTEGER NOT NULL, limit_seen INTEGER NOT NULL, claimed_until REAL NOT NULL,
            PRIMARY KEY (scope, month, threshold_bp)) STRICT""",
        """CREATE TABLE ledger_answer (
            scope TEXT NOT NULL, step_key TEXT NOT NULL, call_id TEXT NOT NULL, body BLOB NOT NULL,
            sha256 TEXT NOT NULL, created_at REAL NOT NULL, PRIMARY KEY (scope, step_key)) STRICT""",
        # Models and providers closed for paid calls until a person resolves it.
        """CREATE TABLE ledger_quarantine (
            scope TEXT NOT NULL, key TEXT NOT NULL, reason TEXT NOT NULL, call_id TEXT NOT NULL,
            at REAL NOT NULL,
            resolved_at REAL, resolved_by TEXT, resolution TEXT, PRIMARY KEY (scope, key, call_id)) STRICT""",
    ],
)
# What pays for a call: NULL is the baseline or a free call; else `ExtraKind`.
register_schema("ledger", 2, ["ALTER TABLE ledger_call ADD COLUMN extra TEXT"])

register_schema(
    "batch",
    1,
    [
        # One batch at a provider. `submitting`: it may exist there, and its id is not known.
        """CREATE TABLE ledger_batch (
            id TEXT PRIMARY KEY, scope TEXT NOT NULL, month TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('submitting', 'open', 'ended', 'failed', 'lost')),
            provider TEXT NOT NULL, model TEXT NOT NULL, model_key TEXT NOT NULL, key_id TEXT NOT NULL,
            provider_batch TEXT, price TEXT NOT NULL, lines INTEGER NOT NULL, seen TEXT,
            submitted_at REAL NOT NULL, ended_at REAL, note TEXT) STRICT""",
        "CREATE INDEX ledger_batch_open ON ledger_batch (scope, state)",
        # Its requests, kept until their results are settled: whichever process collects them needs no more.
        """CREATE TABLE ledger_batch_line (
            call_id TEXT PRIMARY KEY, scope TEXT NOT NULL, batch_id TEXT NOT NULL, step_key TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('open', 'done')), request BLOB) STRICT""",
        "CREATE INDEX ledger_batch_line_batch ON ledger_batch_line (batch_id)",
        "CREATE UNIQUE INDEX ledger_batch_line_once ON ledger_batch_line (scope, step_key) WHERE state = 'open'",
    ],
)
