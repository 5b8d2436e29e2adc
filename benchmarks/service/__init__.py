"""The service under attack and under load: real processes, real databases; each file returns its figures as a mapping.

| file | holds |
|---|---|
| `running` | a service of its own for a benchmark, watched from outside |
| `team` | a PostgreSQL, a Redis, API, dispatcher and workers of its own, all killable |
| `tiny` | small jobs whose plans are known |
| `chaos` | kills of every part while jobs are sent |
| `queueing` | a job behind a thousand that were cancelled |
| `half_open` | /healthz while many hold half a request |
| `hostile_models` | hostile uploads by seed: what the three below make |
| `hostile_mutations` | sound networks (`hostile_seeds`) that are changed |
| `hostile_made` | files made to take time, memory or files |
| `hostile_archives` | archives that want to expand, to write elsewhere, to run code |
| `hostile_child` | how each ends in the process that parses and runs models, alone |
| `hostile_service` | hostile files through all of it |
| `isolation`, `tenants` | what one project sees of another, over the whole API |
| `webhooks`, `receiver` | whether every message arrives, while dispatchers are killed and the receiver dies |
| `one_job` | one job on two processes |
"""
