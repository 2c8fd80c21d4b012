"""The stages: each owns the thread, queues, bounds and rules of one step.

They import tasks, flow and results, never each other but for `stage`, `endings` and `equal`. Called by the pipeline,
which says what comes next, and by the worker's threads.
"""
