"""Labels of pairs of answers: which was better, which safer, and how they become rows of a preference set."""
