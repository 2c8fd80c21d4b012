"""Reads Kafka's record batches within bounds of size, count and checksum. Knows nothing of a client library."""
