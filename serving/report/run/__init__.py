"""The report of one run: sections that hold whoever judged, and the page that puts all together."""
