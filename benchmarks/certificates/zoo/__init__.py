"""Networks by family; each file registers builders, and `benchmarks.certificates.networks` collects them."""
