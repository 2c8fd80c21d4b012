"""The published schemas: made of the models, and compared with those of the last release.

    python -m scripts.messages.publish        writes schemas/published/*.json

A test compares the files with what this writes, and another asks whether a change breaks those who rely on them.
"""
