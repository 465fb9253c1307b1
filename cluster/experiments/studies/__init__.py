"""The claims of the papers as studies: arms, effects paired by seed, and one verdict each."""
