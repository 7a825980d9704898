"""Video action recognition: data, models, training, evaluation, labelling, and the commands."""
