"""The gate inside the backward pass, the trainer, and seals."""
