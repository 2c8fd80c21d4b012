"""For people who build on the worker: in-memory fakes of its ports, and the checks that every model must pass."""
