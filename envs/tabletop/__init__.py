"""Tasks at a table, on robosuite."""
