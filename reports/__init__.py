"""Pictures and tables of finished runs, made from the files that the runs wrote."""

import packages  # noqa: F401, first: says which package is missing
import stops

if stops.imports_for_module():
    stops.begin()
