"""The report of one run: sections that hold for every judge, and the page that puts all together."""
