"""The stages of the pipeline: parse, lookup, fetch, decode, annotate and finish.

A stage owns its queues, its limits and, in most cases, a thread. `Pipeline` connects the stages.
"""
