"""The service under attack and under load: real processes, real databases; each file returns its figures as a mapping.

| file | holds |
|---|---|
| `running` | a service of its own for a benchmark, watched from outside |
"""
