"""Who says how good and how harmful a response is."""
