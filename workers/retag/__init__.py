"""Makes outcomes anew after a change of settings."""
