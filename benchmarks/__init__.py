"""Measurements, each against a reference in the same run."""

import packages  # noqa: F401, first: says which package is missing
import stops

if stops.imports_for_module():
    stops.begin()
