"""The spend ledger: reserve before a call, settle after it."""
