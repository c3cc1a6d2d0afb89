"""Linear probes: logistic regression on the features of a frozen backbone."""
