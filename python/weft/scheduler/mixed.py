"""When decode rows join a prefill step, and what they leave to it (semantics 8.2)."""

from weft.scheduler.prefill import floor_to_page


def least_prefill_tokens(chunk: int, page_size: int) -> int:
    """Prompt tokens that decode rows leave in any mixed step: a quarter of the chunk, at least a page.

    Without it a page as large as the chunk, or as many running requests as the chunk has tokens, would keep every
    waiting prompt out until the last running request has ended.
    """
    return max(page_size, floor_to_page(chunk // 4, page_size))


def prefill_tokens(chunk: int, num_running: int, page_size: int) -> int:
    """Prompt tokens of a mixed step: the decode rows count against the chunk."""
    return max(chunk - num_running, least_prefill_tokens(chunk, page_size))
