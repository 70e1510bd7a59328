"""`python -m tools.check`: a module for each kind of question, which returns findings."""
