"""Training: the loop, its step, its optimizer, and what guards and records them."""
