"""The stages: each owns the thread, queues, bounds and rules of one step.

They import tasks, flow and results; of each other only `stage`, `endings` and `equal`. Called by the pipeline, which
connects them, and by the worker's threads.
"""
