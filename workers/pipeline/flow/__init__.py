"""Limits and fairness: budgets, turns by bytes, breakers of buckets. Nothing here knows a task."""
