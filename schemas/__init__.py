"""What travels on the wire: the events that come in, the events that go out, and dead letters.

Needs pydantic and nothing else, imports nothing of the rest of the project, and may be installed alone.
"""
