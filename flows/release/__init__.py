"""Release: registry, gate, rollout, ledger and rollback of packages."""
