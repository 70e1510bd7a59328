"""What changes while training, and what it leaves behind."""
