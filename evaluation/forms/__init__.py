"""The forms that samples come in, one reader to a file. A form is recognised by what a file holds, not by its name."""
