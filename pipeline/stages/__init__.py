"""One file per stage of the job: from what earlier stages wrote to one blob."""
