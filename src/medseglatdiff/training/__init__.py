"""Training: settings, stages, the loop that all stages share, records of runs, calibration."""
