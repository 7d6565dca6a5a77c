"""The campaign of faults: kills, signals, damage, full disks, hostile files and many clients (`make campaign`)."""
