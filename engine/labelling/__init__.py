"""Labels whole folders of videos; a run that was interrupted can be resumed."""
