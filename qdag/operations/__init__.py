"""What people and sensors ask for, as functions over the settings and what is stored. No orchestrator here."""
