"""The paper's tables and figures: the published numbers, and what is measured beside them."""

import packages  # noqa: F401, first: says which package is missing
import stops

if stops.imports_for_module():
    stops.begin()
