"""The command line and one file an experiment: a question of the papers in, tables and figures out."""
