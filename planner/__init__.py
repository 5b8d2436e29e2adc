"""Costs, plans, and the searches for the plan that costs least within the budget."""
