"""Polls records, keeps their order, and commits their outcomes with their offsets."""
