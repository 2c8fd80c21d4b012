"""The command line: one module a command; `clients` and `composition` are the only places where objects meet.

Modules of commands import nothing heavy at their top, so that `tagstream --help` is quick.
"""
