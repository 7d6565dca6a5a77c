"""From archives and folders, as people download or have them, to a data set by the column contract."""
