"""The one exception type of weft. Its message says what is wrong, the value, and the fix."""

from weft._weft import WeftError

__all__ = ["WeftError"]
