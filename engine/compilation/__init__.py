"""From a run to an artifact: gathered, built, proved on held-out clips, sealed."""
