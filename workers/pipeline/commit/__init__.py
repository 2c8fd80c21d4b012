"""From finished outcomes to committed offsets: ledger, poll thread and publish thread.

The ledger imports no stage; the two threads know the pipeline as a whole. Called by the worker and the finish stage.
"""
