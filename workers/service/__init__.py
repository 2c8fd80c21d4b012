"""What a process needs around the pipeline: health and metrics endpoint, telemetry, logs, signals, watchdog, slots."""
