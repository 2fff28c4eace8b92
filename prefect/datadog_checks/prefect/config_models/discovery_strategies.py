"""Strategies of config discovery of this integration's own: there are none.

The ports of a container are all that there is to go by, and for them there is a strategy already, which the
specification names.
"""

from __future__ import annotations
