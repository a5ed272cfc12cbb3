"""How many prompt tokens of which requests a DP rank takes in one step (semantics 8.1, with weft's admission)."""

from dataclasses import dataclass


def ceil_to_page(tokens: int, page_size: int) -> int:
    return -(-tokens // page_size) * page_size


def floor_to_page(tokens: int, page_size: int) -> int:
    return tokens // page_size * page_size


@dataclass(slots=True)
class PrefillBudget:
    """Prompt tokens that one DP rank may still take in this step.

    At most one request is cut; all but the last part of a prompt are whole pages. Without chunks a prompt is taken
    whole or not at all, and the first of a step always fits.
    """

    tokens: int
    page_size: int
    chunked: bool
    empty: bool = True  # nothing taken yet

    def offer(self, rest: int) -> int:
        """How many of `rest` tokens would be taken: all, whole pages, or 0."""
        if ceil_to_page(rest, self.page_size) <= self.tokens or (not self.chunked and self.empty):
            return rest
        return max(0, floor_to_page(self.tokens, self.page_size)) if self.chunked else 0

    def take(self, tokens: int) -> None:
        self.tokens -= ceil_to_page(tokens, self.page_size)
        self.empty = False
