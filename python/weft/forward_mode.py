"""What a batch does in one step. The numbers are SGLang's; never exchange them between builds."""

from weft._weft import ForwardMode, is_prefill

__all__ = ["ForwardMode", "is_prefill"]
