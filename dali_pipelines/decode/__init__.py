"""Random access to the frames of video files and frame folders."""
