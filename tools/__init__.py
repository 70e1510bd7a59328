"""Tools around data sets: they prepare folders for training and evaluation, and check them."""

import packages  # noqa: F401, first: says which package is missing
import stops

if stops.imports_for_module():
    stops.begin()
