"""Networks for others to run: see docs/export.md.

Nothing imports this package but the command line, when it is asked for.
"""
