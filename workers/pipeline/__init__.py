"""The straight line and its rules: from a polled record to a committed outcome. Knows ports, no client library."""
