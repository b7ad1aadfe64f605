"""Training: the loop, its step, its optimiser, and what guards and shows them."""
