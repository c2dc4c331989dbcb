"""The search for the best setting among those that keep everything: space, proposals, early ends, outcome. No Ray."""
