"""Bounds and shares of the work in flight: budgets, the gate, turns by bytes, breakers of buckets.

Imports only types and errors, and knows no task. Called by the stages and the poll thread.
"""
