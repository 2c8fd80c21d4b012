"""The worker's heart: takes records, annotates their images, and publishes each outcome exactly once.

Owns the order of the stages (`pipeline.py`), tasks, roles, results and liveness. Imports ports, types and schemas,
never a client library, torch or a sibling. Called by `workers.cli`, which composes a `Worker`.
"""
