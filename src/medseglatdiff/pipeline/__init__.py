"""From images to masks: the pipeline, its output, and the commands `segment` and `info`."""
