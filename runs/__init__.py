"""What surrounds the work of a run: its folder, what it ran on, its log, how it may fail.

`failures` and `log_streams` are used by `commons` and import nothing of the project; the others use
`commons`.
"""
