"""The command line: one module a command; `clients` and `composition` alone build objects from settings.

Modules of commands import nothing heavy at their top, so that `tagstream --help` is quick.
"""
