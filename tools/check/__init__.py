"""What `python -m tools.check` looks at: one module for each kind of question.

Every module measures facts (frozen dataclasses of numbers) and then judges them (findings). The
findings are put into words here, in `findings`, and printed by `tools.check`.
"""
