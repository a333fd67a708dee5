"""The process that commands the arms, and its client."""
