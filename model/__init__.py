"""Networks: their parts, their checkpoints, and models of others."""
