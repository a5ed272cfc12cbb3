"""Loads the compiled core so that it keeps to its own libraries; imported before all else.

PyTorch opens its CUDA libraries to the whole process, and with them the C++ runtime that some of them contain. Its
functions would take the place of those that the core was linked with, and free what they did not allocate.
"""

import os
import sys

_flags = sys.getdlopenflags()
sys.setdlopenflags(_flags | getattr(os, "RTLD_DEEPBIND", 0))
try:
    from weft import _weft  # noqa: F401 (to load it)
finally:
    sys.setdlopenflags(_flags)
