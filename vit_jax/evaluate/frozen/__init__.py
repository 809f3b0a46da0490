"""Classifiers on the features of a frozen model: few-shot, probes and their sweep, VTAB-1k."""
