"""How much the loss suffers from each candidate, and how the sites depend on each other."""
