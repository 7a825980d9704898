"""Labels for whole folders of videos, which survive whatever stops the run."""
