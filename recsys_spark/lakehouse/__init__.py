"""Delta tables and the ledger; the only place that knows Delta."""
