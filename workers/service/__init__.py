"""A process around the pipeline: health and metrics endpoint, telemetry, logs, signals, watchdog, slots."""
