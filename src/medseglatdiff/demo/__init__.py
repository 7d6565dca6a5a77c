"""The demo's page (extra `demo`)."""
