"""What somebody meets who uses this for the first time: pages, report, documents, commands.

Each part is a function that measures and gives figures by name; `__main__` runs them and prints all in one object.
"""
