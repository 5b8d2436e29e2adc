"""One weight rounded to its formats: ranges, nearest codes, GPTQ."""
