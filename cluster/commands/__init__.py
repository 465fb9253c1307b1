"""One file per `steelyard` verb; none imports an engine before its command runs."""
