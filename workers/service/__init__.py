"""What a process needs around the line: health and metrics endpoint, telemetry, logs, signals, watchdog, slots."""
