"""Our files beside those of other tools, on the same networks and images, in one run.

| file | holds |
|---|---|
| `networks` | the four networks, with the samples of the tools and samples that no tool sees |
| `tools` | the other tools, a script that imports nothing of ours and runs in the interpreter that has them |
| `running` | that script as a process, and what it made or why it made nothing |
| `ours` | our files of each network, for several budgets |
| `verdict` | which of our files stands beside theirs, and what is said of the two |
"""
