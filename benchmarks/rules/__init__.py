"""Rules of allocation that a job does not use: they are here to be compared with the planner.

| file | rule |
|---|---|
| `greedy` | from the widest plan down, always the step of least damage for each cost saved |
| `monotone` | HAWQ-V2: a site of higher trace never gets fewer bits |
| `single_limit` | one plan within one set of limits, under interactions; a job searches a whole frontier |
"""
