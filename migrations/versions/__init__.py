"""One file per change of the schema, each knowing the one before it."""
