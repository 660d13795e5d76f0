"""One provider call: who may call now, stored answer, quota, job budget, ledger hold, client."""
