"""The HTML page of a run or a study."""
