"""The command line: one module a command, and `composition`, the only place where objects meet.

Modules of commands import nothing heavy at their top, so that `tagstream --help` is quick.
"""
