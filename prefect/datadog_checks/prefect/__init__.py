from .__about__ import __version__
from .check import PrefectCheck

__all__ = ["PrefectCheck", "__version__"]
