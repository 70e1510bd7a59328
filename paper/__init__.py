"""The paper's tables and figures: the published numbers, and what is measured beside them."""
