"""The command line: one module a command; `workers.assembly` builds objects from the settings.

Modules of commands import nothing heavy at their top, so that `tagstream --help` is quick.
"""
