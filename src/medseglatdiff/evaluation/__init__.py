"""Measuring a pipeline over a split: numbers per image, their summary with intervals, plots."""
