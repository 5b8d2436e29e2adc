"""What a user can do, one verb each. Services own their transactions: when one returns, its writes are committed."""
