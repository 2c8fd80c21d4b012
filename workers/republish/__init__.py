"""Publishes again: removals of forgotten images, and newest outcomes that older ones hide."""
