"""Tables of the names of weights, a file for each backbone and one for the rest of the detector."""
