"""What was recorded, and proof of it."""
