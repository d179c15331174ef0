"""What people and sensors ask for: what is stale, backfills, landed files, repair. No orchestrator is known here."""
