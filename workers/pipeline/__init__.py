"""The pipeline: from a polled record to a committed outcome. Knows ports, no client library."""
