"""What bounds and shares the work in flight: budgets and the gate, turns by bytes, buckets' breakers.

Imports types and errors alone, and knows no task. Called by the stages and the poll thread.
"""
