"""A procedural city in SF-XL's layout: CosPlace trains on it in minutes, without a download.

python -m mini_city --folder data/mini_city --preset demo
"""

import packages  # noqa: F401, first: says which package of those below is missing
import stops

if stops.imports_for_module():
    stops.begin()

# isort: split

from mini_city.params import PRESETS, CityParams, DistrictParams
from mini_city.writer import generate

__all__ = ["PRESETS", "CityParams", "DistrictParams", "generate"]
