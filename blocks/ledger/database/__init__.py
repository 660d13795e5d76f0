"""The database of the ledger: SQLite or PostgreSQL behind one protocol."""
