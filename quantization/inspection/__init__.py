"""What a quantized file of anybody's making stores, read against its float network: see `inspection`."""
