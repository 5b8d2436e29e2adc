"""What each family of formats stores of a weight, and how that turns back into values."""
